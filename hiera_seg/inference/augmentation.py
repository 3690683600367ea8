"""Average the scores of resized and mirrored copies of an image (test-time augmentation)."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from torch import Tensor, nn
from tqdm import tqdm

from hiera_seg.data.flips import swap_table, with_inner_nodes
from hiera_seg.data.images import ImageReader
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference.sliding import Size, count_windows, slide
from hiera_seg.modeling import HieraSegmentor, NodeView
from hiera_seg.modeling.segmentor import require_segmentor

logger = logging.getLogger(__name__)

KEY = "TEST.AUG"
_PATIENCE = 2  # seconds until a progress bar is shown


class HieraSegmentorWithTTA(nn.Module):
    """Predict on several copies of an image, and decode their average.

    The original image is resized to several sizes, and each copy is optionally mirrored, and run
    as a whole or in sliding windows. The node outputs of every copy are resized to the original
    size and converted to probabilities; their average is decoded. Inputs and outputs are those of
    the segmentor in eval mode. It cannot be trained.
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
            resizes: one augmentation per size.
            flip: also predict on the mirrored copy of each size.
            window: (height, width) of sliding windows in pixels; None: whole images.
            stride: (down, across) steps between windows in pixels; None: two thirds of a window.
            swap: int64 (N,), the node that each node becomes in a mirrored image; None: itself.
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
        require_segmentor(model, f"{KEY}.ENABLED")
        keys = cfg.TEST.AUG
        sizes, largest = tuple(keys.MIN_SIZES), keys.MAX_SIZE
        if not sizes:
            sizes, largest = (cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST
        window, stride = _size(keys.CROP_SIZE, "CROP_SIZE"), _size(keys.STRIDE, "STRIDE")
        if stride and any(a > b for a, b in zip(stride, window or (0, 0), strict=True)):
            raise ConfigError(
                f"{KEY}.STRIDE is {keys.STRIDE}, larger than {KEY}.CROP_SIZE {keys.CROP_SIZE}; "
                "reduce it, because the windows must cover every pixel"
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
            batched_inputs: one dict per image: "image" (C, H, W), the original image. If its size
                differs from "height" and "width", or it is absent, "file_name" is read instead.

        Returns:
            See :class:`~hiera_seg.modeling.HieraSegmentor` in eval mode.

        Raises:
            DatasetError: the original cannot be read; the message names it.
            RuntimeError: in training mode.
        """
        if self.training:
            raise RuntimeError("test-time augmentation cannot be trained; train its .model instead")
        results = []
        for x in batched_inputs:
            image = self._original(x)
            size = _output_size(x, image.shape[:2])
            results.append(self.model.decode(self.views(image), size))
        return results

    @torch.no_grad()
    def views(self, image: np.ndarray, *, progress: bool = False) -> list[NodeView]:
        """Run the model on every copy of an image; sliding windows run while they are decoded.

        Args:
            image: (H, W, C) in the channel order of the model, not resized.
            progress: show a progress bar on stderr if sliding windows take more than two seconds.

        Returns:
            One view per copy, to be decoded together.
        """
        copies = []
        for resize in self.resizes:
            resized = resize.get_transform(image).apply_image(image)
            copies.append(torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1))))
        on_window = self._window_bar([copy.shape[-2:] for copy in copies], progress)
        views = []
        for copy in copies:
            views.append(self._view(copy, on_window))
            if self.flip:
                view = self._view(copy.flip(-1), on_window)
                views.append(view._replace(mirrored=True, swap=self.swap))
        return views

    def _view(self, image: Tensor, on_window: Callable[[], None]) -> NodeView:
        if self.window is None:
            return self.model.node_views([image])[0]
        return slide(self.model, image, self.window, self.stride, on_window)

    def _window_bar(self, sizes: Sequence[Size], progress: bool) -> Callable[[], None]:
        """Return a function that advances a progress bar and closes it after the last window."""
        if self.window is None or not progress:
            return lambda: None
        total = sum(count_windows(size, self.window, self.stride) for size in sizes)
        total *= 1 + self.flip
        bar = tqdm(total=total, unit="window", delay=_PATIENCE, leave=False)

        def advance() -> None:
            bar.update()
            if bar.n >= total:
                bar.close()

        return advance

    def _original(self, x: dict[str, Any]) -> np.ndarray:
        image = x.get("image")
        if image is not None and _output_size(x, image.shape[-2:]) == tuple(image.shape[-2:]):
            return np.ascontiguousarray(image.cpu().numpy().transpose(1, 2, 0))
        if "file_name" not in x:
            raise DatasetError(
                'test-time augmentation: the original image is missing; pass it as "image" (of '
                'height x width), or its "file_name"'
            )
        image = self.read_image(x["file_name"])
        return image if image.ndim == 3 else image[:, :, None]


def _output_size(x: dict[str, Any], size: Size) -> Size:
    return x.get("height", size[0]), x.get("width", size[1])


def mirrored_nodes(cfg: CfgNode, hierarchy: Hierarchy) -> np.ndarray | None:
    """Return the node that each node becomes in a mirrored image, by the datasets' ``flip_pairs``.

    If there are none, and a dataset is not registered, a warning says that they are unknown.

    Returns:
        int64 (N,), its own inverse; None if no nodes are swapped.

    Raises:
        DatasetError: two datasets swap a node with different nodes.
    """
    nodes = np.arange(hierarchy.num_nodes)
    swap = nodes.copy()
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for name in names:
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
                f"flip_pairs of dataset {name!r}: {a!r} is swapped with {c!r}, but with {b!r} in "
                "another dataset; make them agree, or set TEST.AUG.FLIP False"
            )
        swap[told] = table[told]
    if (swap != nodes).any():
        return with_inner_nodes(swap, hierarchy)
    unknown = [x for x in names if x not in MetadataCatalog and x not in DatasetCatalog]
    if unknown:
        logger.warning(
            f"Dataset {unknown[0]!r} is not registered, so its flip_pairs are unknown: left and "
            f"right nodes do not swap in mirrored copies ({KEY}.FLIP); import the module that "
            "registers it"
        )
    return None


def _size(value: Sequence[int], key: str) -> Size | None:
    if not value:
        return None
    if len(value) != 2 or not all(isinstance(n, int) and n > 0 for n in value):
        raise ConfigError(f"{KEY}.{key} is {value}; expected [] or [height, width] in pixels")
    return tuple(value)
