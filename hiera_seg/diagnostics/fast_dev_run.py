"""Train and evaluate any config for a few iterations on synthetic images, in seconds."""

import contextlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicCheckpointer, PeriodicWriter
from PIL import Image

from hiera_seg.config import resolve_hierarchy
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.data.labels import default_void
from hiera_seg.engine.randomness import seed_everything
from hiera_seg.engine.trainer import HieraTrainer
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy, tree_colors

TRAIN, TEST = "hiera_fast_dev_run_train", "hiera_fast_dev_run_val"
NUM_IMAGES = 4
NUM_TESTED = 2  # of these images
CROP = 64
SCENE = (80, 112)  # height, width: larger than a crop, to test random cropping
PATCH = 8  # side of a patch of one node
BATCH = 2  # the minimum for batch norm after global pooling


@dataclass(frozen=True)
class FastDevRun:
    """The result of a fast development run.

    The loss is that of the last iteration, the metrics are those of the evaluation; wall-clock
    seconds and the CPU seconds of this process are those of the whole run.
    """

    iterations: int
    total_loss: float
    metrics: dict[str, float]
    parameters: int
    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        plural = "s" if self.iterations > 1 else ""
        return (
            f"{self.iterations} iteration{plural} and an evaluation in {self.seconds:.1f} s, "
            f"{self.parameters / 1e6:.1f} M parameters, loss {self.total_loss:.3f}, "
            f"mIoU {self.metrics['mIoU']:.2f}"
        )


def fast_dev_run(cfg: CfgNode, *, iterations: int = 1) -> FastDevRun:
    """Train a config's model for a few iterations on synthetic images and evaluate it, on CPU.

    The network, losses, optimizer, augmentations and evaluation are those of the config. The
    datasets are replaced by random patches of the config's tree; images, crops and
    batches are small, and weights are random. Nothing is downloaded, and no files are kept.

    Args:
        cfg: any config of the package; not changed. Its datasets need no files.
        iterations: number of training iterations, 1 or more.

    Raises:
        ConfigError: the config is invalid, or `iterations` is below 1.
        FloatingPointError: a loss is not finite.
    """
    if iterations < 1:
        raise ConfigError(f"--iterations is {iterations}; it must be 1 or more")
    start, cpu_start = time.perf_counter(), time.process_time()
    hierarchy = resolve_hierarchy(cfg)
    with tempfile.TemporaryDirectory(prefix="hiera_seg_") as folder:
        cfg = _shrunk(cfg, folder, iterations)
        flip_pairs = _flip_pairs(cfg, hierarchy)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN,), (TEST,)
        records = _draw(Path(folder), hierarchy)
        with _registered(records, hierarchy, flip_pairs):
            cfg.freeze()
            seed_everything(cfg.SEED)
            trainer = _Trainer(cfg)
            metrics = trainer.train()["sem_seg"]
    return FastDevRun(
        iterations=iterations,
        total_loss=trainer.storage.latest()["total_loss"][0],
        metrics=metrics,
        parameters=sum(p.numel() for p in trainer.model.parameters()),
        seconds=time.perf_counter() - start,
        cpu_seconds=time.process_time() - cpu_start,
    )


class _Trainer(HieraTrainer):
    """Write neither checkpoints, which would take most of the time, nor metrics."""

    def build_hooks(self) -> list[HookBase]:
        writing = PeriodicCheckpointer | PeriodicWriter
        return [hook for hook in super().build_hooks() if not isinstance(hook, writing)]


def _shrunk(cfg: CfgNode, folder: str, iterations: int) -> CfgNode:
    """Return the config with random weights, small images and a short schedule."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = folder
    cfg.SEED = max(cfg.SEED, 0)
    cfg.MODEL.DEVICE = "cpu"
    if cfg.SOLVER.AMP.PRECISION == "float16":  # needs a GPU
        cfg.SOLVER.AMP.PRECISION = "auto"
    cfg.MODEL.WEIGHTS = ""
    timm = cfg.MODEL.HIERA_SEG.get("TIMM")
    if timm is not None:
        timm.PRETRAINED, timm.CHECKPOINT = False, ""
    queries = cfg.MODEL.HIERA_SEG.MASK_FORMER
    queries.NUM_POINTS = min(queries.NUM_POINTS, 512)  # the masks of a crop have 256 pixels
    cfg.INPUT.MIN_SIZE_TRAIN = (CROP, SCENE[0], 96)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [CROP, CROP]
    cfg.INPUT.MIN_SIZE_TEST = CROP
    cfg.INPUT.MAX_SIZE_TEST = 2 * CROP
    cfg.SOLVER.IMS_PER_BATCH = BATCH
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    cfg.SOLVER.MAX_ITER = iterations
    cfg.SOLVER.STEPS = ()
    cfg.SOLVER.WARMUP_ITERS = min(cfg.SOLVER.WARMUP_ITERS, iterations // 2)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    cfg.TEST.EVAL_PERIOD = 0
    cfg.TEST.PRECISE_BN.NUM_ITER = 1
    cfg.TEST.BEST_CHECKPOINT.METRIC = cfg.TEST.EARLY_STOPPING.METRIC = ""
    cfg.TEST.EXPECTED_RESULTS = []
    cfg.TEST.REPORT, cfg.TEST.STRIP_IMAGES, cfg.LOGGERS = False, 0, []  # would not be kept
    cfg.TEST.AUG.MIN_SIZES = cfg.TEST.AUG.MIN_SIZES and (48, CROP)
    if cfg.TEST.AUG.CROP_SIZE:
        cfg.TEST.AUG.CROP_SIZE, cfg.TEST.AUG.STRIDE = [CROP, CROP], []
    return cfg


def _draw(folder: Path, hierarchy: Hierarchy) -> list[dict]:
    """Write images of random patches, labelled with leaves, inner nodes and void of the tree."""
    records = []
    void = default_void(hierarchy)
    ids = np.append(np.arange(hierarchy.num_nodes), void).astype(np.min_scalar_type(void))
    colours = np.append(tree_colors(hierarchy), [[0, 0, 0]], axis=0)
    for index in range(NUM_IMAGES):
        random = np.random.RandomState(index)
        patches = random.randint(len(ids), size=(SCENE[0] // PATCH, SCENE[1] // PATCH))
        patches = patches.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
        image = colours[patches] * 3 // 4 + random.randint(64, size=(*SCENE, 3))
        names = [str(folder / f"{index}_{kind}.png") for kind in ("image", "labels")]
        Image.fromarray(image.astype(np.uint8)).save(names[0])
        Image.fromarray(ids[patches]).save(names[1])
        records.append(
            {
                "file_name": names[0],
                "sem_seg_file_name": names[1],
                "height": SCENE[0],
                "width": SCENE[1],
            }
        )
    return records


def _flip_pairs(cfg: CfgNode, hierarchy: Hierarchy) -> list:
    """Return the flip pairs of the first training set with the tree of the config."""
    for name in cfg.DATASETS.TRAIN:
        metadata = MetadataCatalog.get(name)
        own = metadata.get("hierarchy")
        if own is not None and Hierarchy.from_dict(**own) == hierarchy:
            return list(metadata.get("flip_pairs") or [])
    return []


@contextlib.contextmanager
def _registered(records: list[dict], hierarchy: Hierarchy, flip_pairs: Iterable) -> Iterator[None]:
    sets = {TRAIN: records, TEST: records[:NUM_TESTED]}
    try:
        for name, found in sets.items():
            register_hierarchical_dataset(
                name, found.copy, hierarchy=hierarchy, flip_pairs=list(flip_pairs)
            )
        yield
    finally:
        for name in filter(DatasetCatalog.__contains__, sets):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
