"""The LazyConfig: every part is built from it and trained, by our tool's functions and by hand."""

import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data import build_detection_train_loader
from detectron2.engine import SimpleTrainer

from hiera_seg import Hierarchy
from hiera_seg.cli.expected_errors import log_expected_errors
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.modeling import HieraSegmentor
from projects.LazyHSSN.lazy_training import (
    _Stream,
    build_lazy_model,
    evaluate_lazily,
    load_lazy_config,
    train_lazily,
)
from tests.helpers import write_dataset

PROJECT = Path(__file__).resolve().parents[2] / "projects" / "LazyHSSN"
CONFIG = str(PROJECT / "configs" / "generated_deeplab_v3_plus_r18.py")


@pytest.fixture
def options(tmp_path):
    """A dataset of three images with a tree of its own, and what puts it into the config."""
    tree = Hierarchy.from_dict({"flat": ["road", "pavement"], "vehicle": ["car", "truck"]})
    tree.to_yaml(tmp_path / "tree.yaml")
    (tmp_path / "run").mkdir()
    labels = np.random.default_rng(0).integers(0, 4, (3, 64, 64), np.uint8)
    register_hierarchical_dataset("lazy_tiny", hierarchy=tree, **write_dataset(tmp_path, labels))
    return [
        f"hierarchy.source={tmp_path}/tree.yaml",
        "datasets.train=lazy_tiny",
        "datasets.test=lazy_tiny",
        f"train.output_dir={tmp_path}/run",
        "train.max_iter=2",
        "train.log_period=1",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.mapper.pad_size=[64,64]",
        "dataloader.train.mapper.augmentations=[]",
    ]


def test_two_steps_an_evaluation_and_two_more(options, tmp_path):
    cfg = load_lazy_config(CONFIG, options)
    assert cfg.train.device == ("cuda" if torch.cuda.is_available() else "cpu")
    results = train_lazily(cfg)
    assert {"mIoU", "mIoU_level_0", "consistency"} <= results["sem_seg"].keys()
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    assert [line["iteration"] for line in logged] == [0, 1, 2]  # the last: of the evaluation
    assert {"loss_focal_tree_min", "loss_tree_triplet", "lr"} <= logged[0].keys()
    stored = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    assert stored["hierarchy"]["tree"]["vehicle"] == ["car", "truck"]

    again = load_lazy_config(CONFIG, [*options, "train.max_iter=4"])
    train_lazily(again, resume=True)
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines[3:]] == [2, 3, 4]


def test_a_job_that_torchrun_starts_anew_goes_on(options, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    for restarts, steps in (("0", 2), ("1", 3)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        train_lazily(load_lazy_config(CONFIG, [*options, f"train.max_iter={steps}"]))
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [0, 1, 2, 2, 3]


def test_a_training_that_fails_is_not_evaluated(options, tmp_path):
    cfg = load_lazy_config(CONFIG, [*options, "optimizer.lr=1e30", "train.max_iter=2"])
    with pytest.raises(FloatingPointError):
        train_lazily(cfg)
    assert not (tmp_path / "run" / "hiera_metrics.json").exists()


def test_a_bad_file_is_one_line_in_training_and_in_evaluation(options, tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "labels" / "1.png"), np.full((64, 64), 77, np.uint8))
    cfg = load_lazy_config(CONFIG, [*options, "dataloader.test.num_workers=1"])
    with caplog.at_level("ERROR"), pytest.raises(DatasetError, match=r"1\.png: ids 77"):
        with log_expected_errors():  # as exit_on_error does
            train_lazily(cfg)
    assert "Training failed: " in caplog.text and "Traceback" not in caplog.text
    with pytest.raises(DatasetError) as error:
        evaluate_lazily(cfg, build_lazy_model(cfg).eval())
    assert str(error.value).startswith(str(tmp_path / "labels" / "1.png"))


def test_the_parts_train_under_detectron2s_own_trainer(options):
    cfg = LazyConfig.apply_overrides(LazyConfig.load(CONFIG), options)
    model = instantiate(cfg.model)
    assert isinstance(model, HieraSegmentor)
    assert model.hierarchy.leaf_names == ("road", "pavement", "car", "truck")
    cfg.optimizer.params.model = model
    loader = instantiate(cfg.dataloader.train)
    before = model.sem_seg_head.predictor.weight.clone()
    trainer = SimpleTrainer(model, loader, instantiate(cfg.optimizer))
    trainer.train(0, 2)
    assert not torch.equal(before, model.sem_seg_head.predictor.weight)
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(0.0) == pytest.approx(0.001) and 0 < multiplier(0.9) < 0.2


def test_the_evaluator_scores_in_the_models_tree(options, tmp_path):
    tree = {"flat": ["road", "pavement"], "vehicle": ["car", "truck"], "sky": None}
    Hierarchy.from_dict(tree, levels=["group", "class"]).to_yaml(tmp_path / "larger.yaml")
    options.append(f"hierarchy.source={tmp_path}/larger.yaml")
    cfg = LazyConfig.apply_overrides(LazyConfig.load(CONFIG), options)
    assert "mIoU_group" in instantiate(cfg.dataloader.evaluator).metric_names


def test_the_config_survives_a_file(options, tmp_path):
    LazyConfig.save(load_lazy_config(CONFIG, options), str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert isinstance(build_lazy_model(again), HieraSegmentor)


def test_overrides_of_seed_and_length_reach_all_parts(options):
    cfg = load_lazy_config(CONFIG, [*options, "train.seed=7", "train.max_iter=50"])
    head = build_lazy_model(cfg).sem_seg_head
    assert (head.seed, cfg.dataloader.train.seed) == (7, 7)
    assert head.loss.losses[1].schedule_iters == 50


def test_a_loader_of_detectron2_starts_again_in_a_resumed_run(options):
    cfg = load_lazy_config(CONFIG, options)
    node = cfg.dataloader.train
    stock = LazyCall(build_detection_train_loader)(
        dataset=node.dataset, mapper=node.mapper, total_batch_size=2, num_workers=0
    )
    cfg.dataloader.train = stock
    stream = _Stream(cfg.dataloader.train)
    stream.start_iter = 3
    assert len(next(iter(stream))) == 2


def test_a_dataset_that_is_not_there_is_named(options, tmp_path):
    cfg = load_lazy_config(CONFIG, [*options, "datasets.train=nope"])
    with pytest.raises(ConfigError, match="dataloader: Dataset 'nope' is not registered; --import"):
        train_lazily(cfg)


@pytest.mark.parametrize(
    ("name", "text", "opts", "message"),
    [
        ("x.yaml", "", [], "specify a LazyConfig"),
        ("gone.py", None, [], r"gone\.py does not exist"),
        ("x.py", "train = {", [], r"x\.py has syntax error"),
        ("x.py", "import nothing_like_it", [], "No module named 'nothing_like_it'"),
        ("x.py", "train = {}", [], "lacks model, optimizer, lr_multiplier, dataloader; "),
        (CONFIG, None, ["train.max_iter"], "options train.max_iter: "),
        (CONFIG, None, ["train.max_iter=[1"], "options train.max_iter="),
        (CONFIG, None, ["train.max_iter=two"], "train.max_iter is 'two'"),
        (CONFIG, None, ["train.max_iter=0"], "train.max_iter is 0"),
    ],
)
def test_bad_input_is_named(tmp_path, monkeypatch, name, text, opts, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_lazy_config(name, opts)
    assert "\n" not in str(caught.value)


@pytest.fixture
def tool(monkeypatch, capsys):
    """A function that runs the tool; it returns what the tool prints before it exits with 2."""
    path = PROJECT / "lazyconfig_train_net.py"
    monkeypatch.syspath_prepend(PROJECT)

    def run(*options: str) -> str:
        monkeypatch.setattr("sys.argv", [str(path), "--config-file", CONFIG, *options])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(path), run_name="__main__")
        assert stop.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("option", ["--dry-run", "--fast-dev-run"])
def test_the_tool_does_not_take_what_it_can_not_do(option, tool, monkeypatch):
    monkeypatch.setattr("hiera_seg.cli.launch", lambda main, args: None)  # it trained
    assert f"unrecognized arguments: {option}" in tool(option)


def test_the_tool_evaluates_no_untrained_network(options, tool, monkeypatch):
    # It would keep a log on the standard output of this test
    monkeypatch.setattr("lazy_training.start_run", lambda *args: None)
    error = tool("--eval-only", *options, "train.init_checkpoint=")
    assert "train.init_checkpoint is empty" in error
