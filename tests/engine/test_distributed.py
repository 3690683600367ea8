"""Two processes compute what one with the same global batch does (rule 9 of the house)."""

import pytest
import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from hiera_seg.engine import HieraTrainer
from hiera_seg.engine.distributed import distribute, share_buffers
from hiera_seg.errors import ConfigError
from hiera_seg.layers import point_sampling

from .processes import in_processes

VOID = 255
LOSSES = "MODEL.HIERA_SEG.LOSSES"

# No statistics of a batch and nothing random: what is left has to be equal.
SAME_FOR_ANY_NUMBER_OF_PROCESSES = [
    *("MODEL.RESNETS.DEPTH", 50),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 8),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.NORM", "FrozenBN"),
    *("MODEL.SEM_SEG_HEAD.NORM", "FrozenBN"),
    *("MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", [8]),
    *("MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", 0.0),
    *("MODEL.HIERA_SEG.AUXILIARY.CHANNELS", 8),
    *("MODEL.HIERA_SEG.AUXILIARY.NORM", "FrozenBN"),
    *("MODEL.HIERA_SEG.AUXILIARY.DROPOUT", 0.0),
]
MASK_FORMER = [
    *("MODEL.SEM_SEG_HEAD.NAME", "HieraMaskFormerHead"),
    *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res4", "res5"]),
    *(LOSSES, []),
    *("MODEL.HIERA_SEG.MASK_FORMER.PIXEL_DECODER", "top_down_fpn"),
    *("MODEL.HIERA_SEG.MASK_FORMER.NUM_QUERIES", 6),
    *("MODEL.HIERA_SEG.MASK_FORMER.HIDDEN_DIM", 32),
    *("MODEL.HIERA_SEG.MASK_FORMER.DIM_FEEDFORWARD", 32),
    *("MODEL.HIERA_SEG.MASK_FORMER.DECODER_LAYERS", 2),
    *("MODEL.HIERA_SEG.MASK_FORMER.NUM_POINTS", 64),
]
CASES = {
    **{
        name: [LOSSES, [[name, 1.0]]]
        for name in ("tree_min", "focal_tree_min", "bce", "level_ce", "marginal_ce")
    },
    "auxiliary": [LOSSES, [["bce", 2.0]], "MODEL.HIERA_SEG.AUXILIARY.WEIGHT", 0.4],
    "mask_former": MASK_FORMER,
}


def samples(valid_rows: tuple[int, ...]) -> list[dict]:
    """Images of random labels of all depths, void below `rows`."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for rows in valid_rows:
        labels = torch.randint(6, (48, 48), generator=generator)
        labels[rows:] = VOID
        image = torch.randint(256, (3, 48, 48), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "sem_seg": labels})
    return batch


def build(cfg: CfgNode) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(cfg).train().double()  # rounding is not what is tested
    predictor = getattr(model.sem_seg_head, "predictor", None)
    if predictor is not None:  # it begins so near zero that all pixels are alike
        nn.init.normal_(predictor.weight, std=0.1)
    return model


def losses_and_gradient(model: nn.Module, batch: list[dict]) -> tuple[dict, dict]:
    """Losses as the trainer logs them, and the gradient as the optimizer finds it."""
    losses = model(batch)
    sum(losses.values()).backward()
    logged = comm.all_gather({name: loss.item() for name, loss in losses.items()})
    mean = {name: sum(part[name] for part in logged) / len(logged) for name in losses}
    plain = getattr(model, "module", model)
    return mean, {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}


def points_without_chance(valid, shape, *, generator=None):
    """``draw_points`` of a fixed seed: the same for an image, whichever process has it."""
    return DRAW_POINTS(valid, shape, generator=torch.Generator().manual_seed(1))


DRAW_POINTS = point_sampling.draw_points


def one_step(cfgs: dict[str, CfgNode], rows: list[tuple[int, ...]]) -> dict:
    found = {}
    for name, cfg in cfgs.items():
        for each in rows:
            batch = samples(each)[comm.get_rank() :: comm.get_world_size()]
            found[name, each] = losses_and_gradient(distribute(build(cfg)), batch)
    return found


# Valid rows of each image: one process has the even ones.
ROWS = [(48, 3), (48, 0)]


@pytest.fixture
def cfgs(cfg) -> dict[str, CfgNode]:
    cfg.merge_from_list(SAME_FOR_ANY_NUMBER_OF_PROCESSES)
    made = {}
    for name, options in CASES.items():
        made[name] = cfg.clone()
        made[name].merge_from_list(options)
    return made


def test_losses_and_gradients_of_two_processes_are_those_of_one(cfgs, tmp_path, monkeypatch):
    monkeypatch.setattr(point_sampling, "draw_points", points_without_chance)
    monkeypatch.setattr("hiera_seg.losses.queries.loss.draw_points", points_without_chance)
    first, second = in_processes(one_step, cfgs, ROWS, folder=tmp_path)
    expected = one_step(cfgs, ROWS)
    for case, (losses, gradient) in expected.items():
        assert first[case][0] == pytest.approx(losses, rel=1e-5, abs=1e-6), case
        assert max(g.abs().max() for g in gradient.values()) > 1e-3, case
        for name, value in gradient.items():
            for found in (first, second):
                # float32 of other batch sizes: how closely it agrees depends on the processor
                worst = (found[case][1][name] - value).abs().max()
                assert worst < 1e-5 * max(1e-1, value.abs().max()), (case, name, worst)


def two_steps(cfg: CfgNode, rows: list[tuple[int, ...]]) -> dict:
    model = distribute(build(cfg))
    optimizer = torch.optim.SGD(model.parameters(), 1e-5)
    with EventStorage() as storage:
        for each in rows:
            optimizer.zero_grad()
            batch = samples(each)[comm.get_rank() :: comm.get_world_size()]
            losses = model(batch)
            assert all(loss.isfinite() for loss in losses.values()), losses
            sum(losses.values()).backward()
            optimizer.step()
            storage.step()
    return {name: p.detach() for name, p in model.module.named_parameters()}


def test_sampling_losses_leave_all_processes_with_the_same_finite_weights(cfgs, tmp_path):
    """Also where one process has nothing to draw from."""
    cfg = cfgs["bce"]
    cfg.merge_from_list([LOSSES, [["bce", 1.0], ["tree_triplet", 1.0], ["rmi", 1.0]]])
    before = dict(build(cfg).named_parameters())
    rows = [(48, 48), (48, 0), (0, 48)]
    first, second = in_processes(two_steps, cfg, rows, folder=tmp_path)
    assert any("embedding" in name for name in before)
    for name, value in first.items():
        assert value.isfinite().all(), name
        assert torch.equal(value, second[name]), name
    learnt = [name for name, value in before.items() if not torch.equal(value, first[name])]
    assert any("embedding" in name for name in learnt)


def evaluate(cfg: CfgNode) -> dict:
    """Results of a model whose batch norms have seen other images in each process."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    nn.init.normal_(model.sem_seg_head.predictor.weight)
    model = distribute(model)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean += 0.1 * comm.get_rank()
    return HieraTrainer.test(cfg, model)


def test_evaluation_by_two_processes_is_that_of_the_first_ones_model(cfg, tmp_path):
    first, second = in_processes(evaluate, cfg, folder=tmp_path)
    assert first == evaluate(cfg)
    assert 0 < first["sem_seg"]["mIoU"] < 100
    assert second == {}


def train_unused(cfg: CfgNode) -> str:
    trainer = HieraTrainer(cfg)
    with pytest.raises(ConfigError) as stop:
        trainer.train()
    return str(stop.value)


def test_parameters_that_no_loss_reaches_are_named_before_they_stop_the_job(cfgs, tmp_path):
    cfg = cfgs["bce"]
    cfg.merge_from_list(["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res4"], "DATASETS.TEST", ()])
    for message in in_processes(train_unused, cfg, folder=tmp_path):
        assert message.startswith("parameters 'backbone.res5.0.conv1.weight', 'backbone.res5.")
    cfg.SOLVER.MAX_ITER = 1
    HieraTrainer(cfg).train()  # one process alone does not mind


def test_a_model_that_is_not_on_the_gpu_of_its_process_is_refused(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    for prepare in (distribute, share_buffers):
        with pytest.raises(ConfigError, match='the model is on cpu, .*MODEL.DEVICE to "cuda"'):
            prepare(nn.Linear(1, 1))
