"""Define the tested recipes of CamVid with 11 classes, and the one of the shipped configs."""

from pathlib import Path
from typing import Any

import yaml

SHIPPED = Path(__file__).parents[3] / "configs" / "CamVid11" / "Base-CamVid11-Lite0.yaml"
PIXELS = "package://hiera_seg/data/datasets/camvid11_train_pixels.json"
SHIPPED_SOLVER: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())["SOLVER"]

# What all of them share unless they say otherwise, whatever the configs ship by now.
COMMON = [
    *("MODEL.HIERA_SEG.TIMM.OUTPUT_STRIDE", 32, "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", [3, 6, 9]),
    *("MODEL.HIERA_SEG.NODE_WEIGHTS.METHOD", "", "MODEL.HIERA_SEG.NODE_WEIGHTS.FILE", ""),
]
ADAMW = ["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.WEIGHT_DECAY", 0.01, "SOLVER.WEIGHT_DECAY_NORM", 0.0]
SGD = ["SOLVER.OPTIMIZER", "SGD", "SOLVER.WEIGHT_DECAY", 1e-4, "SOLVER.WEIGHT_DECAY_NORM", 0.0]
WEIGHTS = [
    *("MODEL.HIERA_SEG.NODE_WEIGHTS.METHOD", "inverse_sqrt"),
    *("MODEL.HIERA_SEG.NODE_WEIGHTS.FILE", PIXELS),
]
STRIDE_16 = [
    *("MODEL.HIERA_SEG.TIMM.OUTPUT_STRIDE", 16, "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", [6, 12, 18])
]
FOUR_CROPS = ["SOLVER.IMS_PER_BATCH", 4]
NO_DROPOUT = ["MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", 0.0]
# Rate, iterations, and keys. Iterations are such that all take about the CPU time of the first one.
RECIPES: dict[str, tuple[float, int, list]] = {
    "sgd": (0.05, 200, SGD),
    "sgd-weights": (0.05, 200, SGD + WEIGHTS),
    "adamw": (0.001, 200, ADAMW),
    "adamw-weights": (0.001, 200, ADAMW + WEIGHTS),
    "adamw-weights-no-dropout": (0.001, 200, ADAMW + WEIGHTS + NO_DROPOUT),
    "adamw-4": (0.001, 400, ADAMW + FOUR_CROPS),
    "adamw-4-half": (0.0005, 400, ADAMW + FOUR_CROPS),
    "adamw-4-double": (0.002, 400, ADAMW + FOUR_CROPS),
    "adamw-4-stride-16": (0.001, 280, ADAMW + FOUR_CROPS + STRIDE_16),
}
