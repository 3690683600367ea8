"""In one process with stock projects, a user's copies of datasets, and a newer Detectron2."""

from pathlib import Path

from tests.helpers import run_python

TESTS = Path(__file__).resolve().parent

SCRIPT = """
import sys, types

from detectron2.data import DatasetCatalog, MetadataCatalog

# The user has a CamVid of their own under our name, and copies under other names
DatasetCatalog.register("hiera_camvid_train", lambda: [{"file_name": "mine.png"}])

try:
    import panopticapi.utils
except ImportError:  # Panoptic-DeepLab's mapper imports a name of it
    sys.modules["panopticapi"] = types.ModuleType("panopticapi")
    sys.modules["panopticapi.utils"] = types.ModuleType("panopticapi.utils")
    sys.modules["panopticapi.utils"].rgb2id = None

import itertools

from detectron2.projects import deeplab, panoptic_deeplab, point_rend

from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_model
from hiera_seg import add_hiera_seg_config
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.data.datasets import camvid

functions = [
    deeplab.add_deeplab_config,
    panoptic_deeplab.add_panoptic_deeplab_config,
    point_rend.add_pointrend_config,
    add_hiera_seg_config,
]
dumps = set()
for order in itertools.permutations(functions):
    cfg = get_cfg()
    for function in order:
        function(cfg)
    dumps.add(cfg.dump())
assert len(dumps) == 1, "the order in which projects add their keys matters"
assert cfg.SOLVER.OPTIMIZER == "ADAM"  # Panoptic-DeepLab's

assert DatasetCatalog.get("hiera_camvid_train") == [{"file_name": "mine.png"}]
assert "hiera_camvid_val" in DatasetCatalog
register_hierarchical_dataset(
    "my_camvid_val", hierarchy="camvid", **camvid.files_and_labels("val")
)
mine, ours = MetadataCatalog.get("my_camvid_val"), MetadataCatalog.get("hiera_camvid_val")
assert mine.hierarchy == ours.hierarchy and mine.stuff_colors == ours.stuff_colors

assert {"PanopticDeepLab", "SemanticSegmentor", "HieraSegmentor"} <= {
    name for name, _ in META_ARCH_REGISTRY
}
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.WEIGHTS = ""
cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
cfg.MODEL.RESNETS.DEPTH = 18
cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res4", "res5"]
cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res5"]
cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
cfg.MODEL.SEM_SEG_HEAD.ASPP_CHANNELS = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 16
cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
cfg.DATASETS.TRAIN = ("my_camvid_val",)
cfg.MODEL.HIERA_SEG.EMBEDDING.NORM = "BN"
for architecture, head in [
    ("HieraSegmentor", "HieraPixelHead"),
    ("SemanticSegmentor", "DeepLabV3PlusHead"),
    ("HieraSegmentor", "HieraPixelHead"),
]:
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NAME = architecture, head
    model = build_model(cfg)
    assert type(model).__name__ == architecture
    assert type(model.sem_seg_head).__name__ == head
print("side by side")
"""


def run(*command: object) -> str:
    done = run_python(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_stock_projects_and_a_users_copies_of_datasets():
    assert run("-c", SCRIPT) == "side by side"


def test_detectron2_with_the_differences_of_its_main(tmp_path):
    script = TESTS / "engine" / "as_detectron2_main.py"
    assert run(script, tmp_path) == "all of it works"
