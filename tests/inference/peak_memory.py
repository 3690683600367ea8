"""Print the peak memory of predicting an image in windows: HEIGHT WIDTH WINDOW.

Run with 6000 6000 512 for the figure in docs/inference.md. The network is one convolution.
"""

import sys

import numpy as np
import torch
from detectron2.config import get_cfg

from hiera_seg import Hierarchy, add_hiera_seg_config
from hiera_seg.inference import HieraPredictor
from hiera_seg.modeling import DecodeOptions, HieraSegmentor
from tests.helpers import memory_of_process
from tests.inference.conftest import ConvolutionHead, Pixels


def main(height: int, width: int, window: int) -> None:
    tree = Hierarchy.from_dict({f"group{i}": [f"{i}.{j}" for j in range(8)] for i in range(8)})
    model = HieraSegmentor(
        backbone=Pixels(),
        sem_seg_head=ConvolutionHead(tree, 4),
        pixel_mean=[128.0] * 3,
        pixel_std=[64.0] * 3,
        decode_options=DecodeOptions(output="labels"),
    )
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    cfg.merge_from_list(["TEST.AUG.ENABLED", True, "TEST.AUG.FLIP", False])
    cfg.merge_from_list(["TEST.AUG.MIN_SIZES", (), "INPUT.MIN_SIZE_TEST", 0])
    cfg.TEST.AUG.CROP_SIZE = [window, window]
    predictor = HieraPredictor(cfg, model)
    image = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    before = memory_of_process("VmRSS")
    result = predictor(image)
    peak = memory_of_process("VmHWM") - before
    maps = [*result["hiera_labels"], *result["hiera_labels_direct"]]
    dtype = str(result["labels"].dtype).removeprefix("torch.")
    print(tree.num_nodes, dtype, peak, sum(x.numel() * x.element_size() for x in maps))


if __name__ == "__main__":
    torch.manual_seed(0)
    main(*map(int, sys.argv[1:]))
