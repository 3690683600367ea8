"""Test-time augmentation: an image seen at several sizes and mirrored, decoded as one."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from torch import Tensor, nn

from hiera_seg.data.flips import swap_table, with_inner_nodes
from hiera_seg.data.images import ImageReader
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference.sliding import Size, slide
from hiera_seg.modeling import HieraSegmentor, NodeView

KEY = "TEST.AUG"


class HieraSegmentorWithTTA(nn.Module):
    """A segmentor that looks at an image several times before it decides.

    The image is resized to several sizes from the original, each copy also mirrored where asked
    for, each seen as a whole or in sliding windows. Every view's node outputs are resized to the
    original size and scored; the probabilities are averaged, and the average is decoded. It takes
    and gives what the segmentor does in eval, and can not be trained.
    """

    @configurable
    def __init__(
        self,
        model: HieraSegmentor,
        *,
        resizes: Sequence[T.Augmentation],
        flip: bool = False,
        window: Size | None = None,
        stride: Size | None = None,
        swap: np.ndarray | None = None,
        read_image: Callable[[str], np.ndarray] | None = None,
    ):
        """
        Args:
            model: the segmentor.
            resizes: one augmentation for each size to look at.
            flip: also look at the mirrored copy of each.
            window: (height, width) of sliding windows; None: images are seen as a whole.
            stride: (down, across) steps between windows; None: two thirds of a window.
            swap: int64 (N,), the node that each one becomes in a mirrored image; None: itself.
            read_image: reads an image file as the model expects it; None reads RGB.
        """
        super().__init__()
        self.model = model
        self.resizes = list(resizes)
        self.flip = flip
        self.window = window
        self.stride = stride or (window and tuple(max(1, 2 * n // 3) for n in window))
        self.read_image = read_image or ImageReader()
        table = None if swap is None else torch.as_tensor(swap, device=model.device)
        self.register_buffer("swap", table, persistent=False)
        self.train(model.training)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: HieraSegmentor) -> dict[str, Any]:
        if not isinstance(model, HieraSegmentor):
            raise ConfigError(
                f"{KEY}.ENABLED needs MODEL.META_ARCHITECTURE HieraSegmentor; the model is a "
                f"{type(model).__name__}"
            )
        keys = cfg.TEST.AUG
        sizes, largest = tuple(keys.MIN_SIZES), keys.MAX_SIZE
        if not sizes:
            sizes, largest = (cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST
        window, stride = _size(keys.CROP_SIZE, "CROP_SIZE"), _size(keys.STRIDE, "STRIDE")
        if stride and not window:
            raise ConfigError(f"{KEY}.STRIDE is {list(stride)}, but {KEY}.CROP_SIZE is empty")
        if stride and (stride[0] > window[0] or stride[1] > window[1]):
            raise ConfigError(
                f"{KEY}.STRIDE is {list(stride)}, larger than {KEY}.CROP_SIZE {list(window)}: "
                "pixels between the windows would never be seen"
            )
        return {
            "model": model,
            "resizes": [T.ResizeShortestEdge(size, largest) for size in sizes],
            "flip": keys.FLIP,
            "window": window,
            "stride": stride,
            "swap": mirrored_nodes(cfg, model.hierarchy) if keys.FLIP else None,
            "read_image": ImageReader.from_config(cfg),
        }

    @property
    def hierarchy(self) -> Hierarchy:
        return self.model.hierarchy

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict]:
        """Predict, one image at a time.

        Args:
            batched_inputs: one dict an image: "image" (C, H, W), which has to be the original: its
                size is "height" and "width" where these are given. Where it is a resized copy or
                absent, "file_name" is read.

        Returns:
            As of :class:`~hiera_seg.modeling.HieraSegmentor` in eval.

        Raises:
            DatasetError: the original can not be read; the message names it.
            RuntimeError: in training.
        """
        if self.training:
            raise RuntimeError("test-time augmentation can not be trained: train its .model")
        results = []
        for x in batched_inputs:
            image = self._original(x)
            height, width = image.shape[:2]
            size = (x.get("height", height), x.get("width", width))
            results.append(self.model.decode(self.views(image), size))
        return results

    @torch.no_grad()
    def views(self, image: np.ndarray) -> list[NodeView]:
        """Every view of an image, to be decoded as one.

        Args:
            image: (H, W, C) in the channel order of the model, not resized.
        """
        views = []
        for resize in self.resizes:
            resized = resize.get_transform(image).apply_image(image)
            tensor = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))
            views.append(self._look(tensor))
            if self.flip:
                view = self._look(tensor.flip(-1))
                views.append(view._replace(mirrored=True, swap=self.swap))
        return views

    def _look(self, image: Tensor) -> NodeView:
        if self.window is None:
            return self.model.node_views([image])[0]
        return slide(self.model, image, self.window, self.stride)

    def _original(self, x: dict[str, Any]) -> np.ndarray:
        image = x.get("image")
        if image is not None:
            height, width = image.shape[-2:]
            if (x.get("height", height), x.get("width", width)) == (height, width):
                return np.ascontiguousarray(image.cpu().numpy().transpose(1, 2, 0))
        if "file_name" not in x:
            raise DatasetError(
                "test-time augmentation starts from the original image: give one of height x "
                'width as "image", or its "file_name"'
            )
        image = self.read_image(x["file_name"])
        return image if image.ndim == 3 else image[:, :, None]


def mirrored_nodes(cfg: CfgNode, hierarchy: Hierarchy) -> np.ndarray | None:
    """The node that each one becomes in a mirrored image, by the ``flip_pairs`` of the datasets.

    Args:
        cfg: its DATASETS are asked, those of training first.
        hierarchy: the model's tree.

    Returns:
        int64 (N,), its own inverse; None where no node swaps.

    Raises:
        DatasetError: one swaps a node with another than the datasets before it.
    """
    nodes = np.arange(hierarchy.num_nodes)
    swap = nodes.copy()
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(name) if name in MetadataCatalog else None
        if metadata is None or not metadata.get("flip_pairs"):
            continue
        table = swap_table(
            metadata.flip_pairs, Hierarchy.from_dict(**metadata.hierarchy), hierarchy
        )
        known, told = swap != nodes, table != nodes
        if (differs := np.flatnonzero(known & told & (swap != table))).size:
            node = differs[0]
            a, b, c = (hierarchy.paths[i] for i in (node, swap[node], table[node]))
            raise DatasetError(
                f"flip_pairs of dataset {name!r} swap {a!r} with {c!r}, those of another dataset "
                f"with {b!r}: a mirrored image can not be turned back"
            )
        swap[told] = table[told]
    return None if (swap == nodes).all() else with_inner_nodes(swap, hierarchy)


def _size(value: Sequence[int], key: str) -> Size | None:
    if not value:
        return None
    if len(value) != 2 or not all(isinstance(n, int) and n > 0 for n in value):
        raise ConfigError(f"{KEY}.{key} is {value}; it is [] or [height, width] in pixels")
    return tuple(value)
