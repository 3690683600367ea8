"""A dataset of three 40x48 images, and configs small enough to train on it in seconds."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode

from hiera_seg import Hierarchy
from hiera_seg.data import register_hierarchical_dataset
from tests.helpers import new_config

NAME = "tiny_street_train"
STREET = Hierarchy.from_dict(
    {"flat": {"road": None, "pavement": None}, "vehicle": {"car": None, "truck": None}},
    name="street",
    levels=["group", "class"],
)


@pytest.fixture(scope="session")
def street() -> Hierarchy:
    return STREET


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """``images/*.jpg`` and ``labels/*.png``: four quadrants of four colours, with a void rim."""
    folder = tmp_path_factory.mktemp("tiny_street")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    rng = np.random.default_rng(0)
    colors = np.array([[90, 90, 90], [200, 200, 180], [40, 40, 220], [220, 60, 40]])
    for index in range(3):
        label = np.empty((40, 48), np.uint8)
        row, column = rng.integers(14, 26, 2)
        label[:row, :column], label[:row, column:] = 0, 1
        label[row:, :column], label[row:, column:] = 2, 3
        image = np.clip(colors[label] + rng.integers(-20, 20, (40, 48, 1)), 0, 255)
        label[:2] = 255
        cv2.imwrite(str(folder / "images" / f"{index}.jpg"), image.astype(np.uint8))
        cv2.imwrite(str(folder / "labels" / f"{index}.png"), label)
    return folder


def register(folder: Path | str, name: str = NAME, **options: object) -> str:
    """Register the dataset in :func:`tiny_folder`."""
    roots = {"image_root": f"{folder}/images", "sem_seg_root": f"{folder}/labels"}
    register_hierarchical_dataset(name, hierarchy=STREET, **roots, **options)
    return name


@pytest.fixture
def tiny_dataset(tiny_folder) -> str:
    return register(tiny_folder)


SMALL_NETWORK = [
    "MODEL.DEVICE", "cpu",
    "MODEL.META_ARCHITECTURE", "HieraSegmentor",
    "MODEL.WEIGHTS", "",
    "MODEL.BACKBONE.NAME", "build_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT", 0,
    "MODEL.RESNETS.DEPTH", 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
    "MODEL.RESNETS.OUT_FEATURES", ["res2", "res4", "res5"],
    "MODEL.RESNETS.NORM", "BN",
    "MODEL.SEM_SEG_HEAD.NAME", "HieraPixelHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res5"],
    "MODEL.SEM_SEG_HEAD.NORM", "BN",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16,
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 16,
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", [1, 2, 3],
    "MODEL.HIERA_SEG.EMBEDDING.DIM", 16,
    "INPUT.MIN_SIZE_TRAIN", (36, 40, 48),
    "INPUT.MIN_SIZE_TEST", 0,
    "INPUT.CROP.ENABLED", True,
    "INPUT.CROP.TYPE", "absolute",
    "INPUT.CROP.SIZE", [32, 32],
    "INPUT.COLOR_AUG_SSD", True,
    "SOLVER.IMS_PER_BATCH", 2,
    "SOLVER.BASE_LR", 0.02,
    "SOLVER.MAX_ITER", 6,
    "SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR",
    "SOLVER.WARMUP_ITERS", 2,
    "SOLVER.CHECKPOINT_PERIOD", 2,
    "DATALOADER.NUM_WORKERS", 0,
    "SEED", 7,
]  # fmt: skip


@pytest.fixture
def cfg(tiny_dataset, tmp_path) -> CfgNode:
    """A config that trains a small network on the tiny dataset into a fresh folder."""
    cfg = new_config(*SMALL_NETWORK)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (tiny_dataset,)
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    (tmp_path / "run").mkdir()
    return cfg


# A user's own script: it registers a dataset and calls launch, as tools/train_net.py does.
SCRIPT = """
from detectron2.engine import default_argument_parser
from hiera_seg.cli import launch, setup
from hiera_seg.engine import HieraTrainer
from tests.tiny_street import register

register({folder!r})

def main(args):
    trainer = HieraTrainer(setup(args))
    trainer.resume_or_load(resume=args.resume)
    trainer.train()

if __name__ == "__main__":
    launch(main, default_argument_parser().parse_args())
"""


@pytest.fixture
def script(cfg, tiny_folder, tmp_path) -> Callable[..., list[str]]:
    """A function that writes such a script and its config; it returns the command line."""

    def write(*options: object, text: str = SCRIPT) -> list[str]:
        (tmp_path / "train.py").write_text(text.format(folder=str(tiny_folder)))
        cfg.merge_from_list(list(options))
        (tmp_path / "config.yaml").write_text(cfg.dump())
        return [str(tmp_path / "train.py"), "--config-file", str(tmp_path / "config.yaml")]

    return write
