"""One step: parts of a batch, averages of weights, losses that are not finite."""

import copy
import random
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from hiera_seg.data import HieraDatasetMapper
from hiera_seg.engine import HieraTrainer
from hiera_seg.engine.ema import WeightAverage
from hiera_seg.engine.randomness import seed_everything, set_random_state
from hiera_seg.engine.step import HieraTrainStep
from hiera_seg.errors import DatasetError
from hiera_seg.losses import QUERY_OPTIONS, QueryLoss

from .processes import in_processes, train

WITHOUT_BATCH_STATISTICS = [
    "MODEL.RESNETS.NORM", "FrozenBN",
    "MODEL.SEM_SEG_HEAD.NORM", "FrozenBN",
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", 0.0,
    "MODEL.HIERA_SEG.AUXILIARY.WEIGHT", 0.4,
    "MODEL.HIERA_SEG.AUXILIARY.NORM", "FrozenBN",
    "MODEL.HIERA_SEG.AUXILIARY.DROPOUT", 0.0,
    "MODEL.HIERA_SEG.LOSSES", [["focal_tree_min", 1.0], ["level_ce", 1.0], ["marginal_ce", 0.5]],
    "SOLVER.IMS_PER_BATCH", 4,
    "SOLVER.MAX_ITER", 2,
]  # fmt: skip


def trained(cfg, **keys) -> HieraTrainer:
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    seed_everything(1)
    return train(cfg)


@pytest.fixture
def uneven_void(tiny_dataset, monkeypatch):
    """Labels of which the lower images are void for the most part."""
    original = HieraDatasetMapper.__call__

    def with_void(self, record):
        sample = original(self, record)
        if record["file_name"].endswith("1.jpg"):
            sample["sem_seg"][:25] = 255
        return sample

    monkeypatch.setattr(HieraDatasetMapper, "__call__", with_void)


@pytest.mark.parametrize("steps", [2, 4])
def test_a_batch_in_parts_trains_as_the_whole(cfg, uneven_void, steps):
    cfg.DATASETS.TEST = ()
    cfg.merge_from_list(WITHOUT_BATCH_STATISTICS)
    whole = trained(cfg.clone())
    parts = trained(cfg.clone(), SOLVER__ACCUMULATION_STEPS=steps)
    start = HieraTrainer.build_model(cfg).state_dict()
    moved = 0.0
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(value, parts.model.state_dict()[name], rtol=1e-5, atol=1e-5)
        moved = max(moved, (value - start[name]).abs().max().item())
    assert moved > 1e-2
    for name in ("total_loss", "loss_level_ce", "loss_auxiliary"):
        expected = whole.storage.history(name).latest()
        assert parts.storage.history(name).latest() == pytest.approx(expected, rel=1e-5)


def test_counts_of_parts_add_up_for_queries(street):
    loss = QueryLoss(QUERY_OPTIONS["node_sigmoid"](street), ignore_label=255)
    labels = torch.randint(4, (3, 8, 8), generator=torch.Generator().manual_seed(0))
    labels[1] = 255
    parts = [loss.normalizers(loss.segments(labels[i : i + 1]), 5) for i in range(3)]
    torch.testing.assert_close(sum(parts), loss.normalizers(loss.segments(labels), 5))


def test_parts_that_are_averaged_by_themselves_cause_a_warning(monkeypatch, caplog):
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())
    step = toy_step(samples(1.0, 2.0), accumulation_steps=2)
    with EventStorage(0), caplog.at_level("WARNING"):
        for step.iter in range(2):
            step.run_step()
    assert caplog.text.count("SOLVER.ACCUMULATION_STEPS: Toy ") == 1


class Toy(nn.Module):
    """One weight, one buffer that counts, and a loss that a sample can make infinite."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("mean", torch.tensor(4.0))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, batch):
        self.count += 1
        x = torch.stack([sample["x"] for sample in batch])[:, None]
        return {"loss_a": (self.weight * x).mean(), "loss_b": self.weight.abs().sum()}


def toy_step(samples, folder=".", model=None, **options) -> HieraTrainStep:
    model = model or Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"device_type": "cpu", "precision": None, "seed": 3, **options}
    return HieraTrainStep(model, [samples] * 9, optimizer, dump_folder=str(folder), **options)


def samples(*values: float) -> list[dict]:
    return [{"x": torch.tensor(v), "file_name": f"{i}.jpg"} for i, v in enumerate(values)]


def test_an_average_follows_the_weights():
    model = Toy()
    average = WeightAverage(model, decay=0.75)
    average.start(model)
    with torch.no_grad():
        for _ in range(2):
            model.weight += 1.0
            model.mean += 4.0
            model.count += 1
            average.update(model)
    # 1 -> 0.75 * 1 + 0.25 * 2 = 1.25 -> 0.75 * 1.25 + 0.25 * 3 = 1.6875
    assert average.model.weight.tolist() == [1.6875, 2.6875]
    assert average.model.mean.item() == 4 + 4 * 0.6875
    assert average.model.count.item() == 2
    assert not average.model.training and not average.model.weight.requires_grad
    again = WeightAverage(Toy(), decay=0.75)
    again.load_state_dict(copy.deepcopy(average.state_dict()))
    again.start(model)  # what a checkpoint had stays
    assert torch.equal(again.model.weight, average.model.weight)


def test_tied_weights_are_averaged_once_per_step():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    model[2].weight = model[0].weight
    nn.init.ones_(model[0].weight)
    average = WeightAverage(model, decay=0.75)
    nn.init.constant_(model[0].weight, 2.0)
    average.update(model)
    assert average.model[2].weight.item() == average.model[0].weight.item() == 1.25


class RandomToy(Toy):
    """A loss that is a random draw, of each of the generators that a model may use."""

    def forward(self, batch):
        losses = super().forward(batch)
        draws = {
            "loss_torch": torch.rand(()).item(),
            "loss_numpy": float(np.random.rand()),
            "loss_random": random.random(),
        }
        return losses | {name: 0 * self.weight.sum() + value for name, value in draws.items()}


@pytest.mark.parametrize(
    ("parts", "bad", "images"),
    [(1, 1, "'0.jpg', '1.jpg', '2.jpg'"), (3, 0, "'0.jpg'"), (3, 1, "'1.jpg'"), (3, 2, "'2.jpg'")],
)
def test_a_loss_that_is_not_finite_is_described_and_can_be_repeated(tmp_path, parts, bad, images):
    values = [1.0, 2.0, 3.0]
    values[bad] = float("nan")
    step = toy_step(samples(*values), tmp_path, model=RandomToy(), accumulation_steps=parts)
    before = step.model.weight.clone()
    step.iter = 7
    with EventStorage(7), pytest.raises(FloatingPointError) as error:
        step.run_step()
    line, path = str(error.value), tmp_path / "not_finite_7_process_0.pth"
    assert f"at iteration=7: loss_a is nan; images: {images}; " in line and str(path) in line
    assert "loss_b is" not in line and "weights were not finite" not in line
    assert torch.equal(step.model.weight, before)

    dump = torch.load(path, weights_only=True)
    assert (dump["part"], dump["seed"], dump["iteration"]) == (bad if parts > 1 else 0, 3, 7)
    again = RandomToy()
    again.load_state_dict(dump["model"])
    set_random_state(dump["random_state"])
    found = {name: value.item() for name, value in again(dump["batch"]).items()}
    assert found == pytest.approx(dump["losses"], nan_ok=True)


def test_weights_that_were_broken_before_are_told_from_bad_images(tmp_path):
    step = toy_step(samples(1.0), tmp_path)
    with torch.no_grad():
        step.model.weight[0] = float("inf")
    with (
        EventStorage(0),
        pytest.raises(FloatingPointError, match="not finite before it: 'wei"),
    ):
        step.iter = 0
        step.run_step()


def test_a_dump_that_can_not_be_written_is_said_and_hides_nothing(tmp_path):
    step = toy_step(samples(float("inf")), tmp_path / "missing")
    step.iter = 0
    with (
        EventStorage(0),
        pytest.raises(FloatingPointError, match="loss_a is inf.* could not be written"),
    ):
        step.run_step()


def test_skipped_samples_are_counted_and_the_count_is_kept():
    batch = samples(1.0, 2.0)
    batch[0]["skipped"] = ["bad.jpg", "worse.jpg"]
    step = toy_step(batch)
    with EventStorage(0) as storage:
        for step.iter in range(2):
            step.run_step()
        assert storage.latest()["skipped_samples"][0] == 2
    again = toy_step(batch)
    again.load_state_dict(step.state_dict())
    assert again.skipped == 2


def bad_step(folder) -> str:
    step = toy_step(samples(float("nan") if comm.get_rank() == 1 else 1.0), folder)
    step.iter = 0
    with EventStorage(0), pytest.raises(FloatingPointError) as error:
        step.run_step()
    return str(error.value)


def test_all_processes_stop_where_one_has_a_bad_loss(tmp_path):
    (tmp_path / "run").mkdir()
    first, second = in_processes(bad_step, tmp_path / "run", folder=tmp_path)
    assert first == second and "not_finite_0_process_1.pth" in first
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["not_finite_0_process_1.pth"]


def test_a_damaged_file_in_the_middle_of_an_epoch(cfg, tiny_folder, tmp_path):
    """Raised by its name, or skipped and counted, after which the run ends as any other."""
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.MAX_ITER = 3
    whole = (tiny_folder / "images" / "1.jpg").read_bytes()
    bad = tmp_path / "1.jpg"
    bad.write_bytes(whole[: len(whole) // 2])
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    name = next(record["file_name"] for record in records if record["file_name"].endswith("1.jpg"))
    (tiny_folder / "images" / "1.jpg").write_bytes(bad.read_bytes())
    try:
        with pytest.raises(DatasetError, match=f"cannot read image file {name}: .*truncated"):
            trained(cfg.clone())
        trainer = trained(cfg.clone(), DATALOADER__ON_ERROR="skip")
        assert trainer.iter == 3
        # the stream of three images in six samples has it twice
        assert trainer.storage.latest()["skipped_samples"][0] == 2
    finally:
        (tiny_folder / "images" / "1.jpg").write_bytes(whole)


def test_half_precision_may_begin_where_a_run_goes_on():
    before = toy_step(samples(1.0)).state_dict()
    assert before["grad_scaler"] == {}, "nothing was scaled"
    step = toy_step(samples(1.0), precision=torch.float16)
    scale = step.grad_scaler.get_scale()
    step.load_state_dict(before)
    assert step.grad_scaler.get_scale() == scale
    toy_step(samples(1.0)).load_state_dict(step.state_dict())  # and may end
