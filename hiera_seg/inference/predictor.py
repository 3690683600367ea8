"""Predict on images by a config and its weights."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import PIL.Image
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from torch import Tensor

from hiera_seg.config.image_format import chosen_bands
from hiera_seg.data.bands import select_bands
from hiera_seg.data.images import ImageReader
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference.augmentation import HieraSegmentorWithTTA
from hiera_seg.inference.published import load_published
from hiera_seg.inference.weights import build_for_eval
from hiera_seg.modeling import DecodeOptions, HieraSegmentor, NodeView
from hiera_seg.modeling.segmentor import require_segmentor

Image = np.ndarray | str | os.PathLike


class HieraPredictor:
    """Segment images by the keys INPUT.*_TEST, MODEL.HIERA_SEG.TEST and TEST.AUG of a config.

    ::

        predictor = HieraPredictor(cfg)                        # weights: MODEL.WEIGHTS
        result = predictor("street.jpg", level="group")
        result["labels"], result["names"]
        HieraPredictor("model.safetensors")                    # of tools/publish_weights.py

    Attributes:
        model: the segmentor, in eval mode.
        hierarchy: its class tree.
    """

    def __init__(self, cfg: CfgNode | str | os.PathLike, model: HieraSegmentor | None = None):
        """
        Args:
            cfg: a config with a HieraSegmentor; or an inference file, which holds its config and
                weights (see :func:`~hiera_seg.inference.load_published`).
            model: a model with its weights, which decodes as it was built if the keys of
                MODEL.HIERA_SEG.TEST have their defaults. None builds it and loads MODEL.WEIGHTS,
                or the last checkpoint of OUTPUT_DIR if that is empty; the averaged weights if
                SOLVER.EMA is enabled and the file has them.

        Raises:
            ConfigError: the model is not a HieraSegmentor, or there are no weights.
            CheckpointError: the weights do not exist, do not fit, or have no segmentation head; or
                the inference file cannot be read.
        """
        if isinstance(cfg, str | os.PathLike):
            cfg, model, _ = load_published(cfg)
        if model is None:
            model, _ = build_for_eval(cfg)
        self.model = require_segmentor(model, "HieraPredictor").eval()
        options = DecodeOptions.from_config(cfg)
        self._options = self.model.decode_options if options == DecodeOptions() else options
        self.image_format = cfg.INPUT.FORMAT
        self._read_file = ImageReader.from_config(cfg)
        self._augmented = HieraSegmentorWithTTA(cfg, model) if cfg.TEST.AUG.ENABLED else None
        self._resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    @property
    def hierarchy(self) -> Hierarchy:
        return self.model.hierarchy

    def __call__(
        self,
        images: Image | Iterable[Image],
        *,
        level: int | str | None = None,
        safe_depth: float | None = None,
        scores: bool = False,
        options: DecodeOptions | None = None,
        progress: bool = True,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Segment an image, or a list of images.

        Args:
            images: a path, or a uint8 array (H, W, 3) in BGR, as in OpenCV and in Detectron2's
                predictor (if INPUT.FORMAT is "BANDS", an array (H, W, C) of the model's bands, with
                values as in files); or a batch: a list of these, of any sizes, or an array
                (B, H, W, 3). Images that are padded to one size are run as one batch.
            level: index or name of the level of "labels"; None: the finest.
            safe_depth: confidence threshold, 0..1, for stopping at an inner node: predict the
                parent if its best child scores below this. None: that of `options`.
            scores: also return the score of each label, by the decode variant.
            options: how to decode; None: as configured.
            progress: show a progress bar on stderr while sliding windows run, if an image takes
                more than two seconds.

        Returns:
            A dict for an image, a list of dicts for a batch. Tensors are on the model's device:

            - "labels": (H, W), the node ids at `level`: int64, or with TEST.OUTPUT "labels" the
              smallest unsigned integer type;
            - "names": {node id: name} of the nodes in "labels", the largest area first. A name is
              the display name, or the path where two of the nodes share it (with a safe depth);
            - "scores": float (H, W), the score of each pixel's label at `level`, and
              "hiera_confidence", one such map per level; only with `scores`;
            - "sem_seg", "hiera_labels", "hiera_labels_direct": the outputs of
              :class:`~hiera_seg.modeling.HieraSegmentor` that TEST.OUTPUT and TEST.DIRECT select.
              With TEST.OUTPUT "scores" there are no labels and no names.

        Raises:
            DatasetError: a file cannot be read.
            HierarchyError: the tree has no such level.
            ValueError: an array is not an image; or `level`, `safe_depth` or `scores` are passed
                for a model whose TEST.OUTPUT is "scores".
        """
        options = options or self._options
        if options.output == "scores" and (scores or (level, safe_depth) != (None, None)):
            raise ValueError(
                "level, safe_depth and scores require label maps, but MODEL.HIERA_SEG.TEST.OUTPUT "
                "is 'scores'; set it to 'both' or 'labels'"
            )
        level = -1 if level is None else self.hierarchy.level_index(level)
        if safe_depth is not None:
            options = dataclasses.replace(options, min_confidence=safe_depth)
        if scores:
            options = dataclasses.replace(options, confidence=True)
        single = isinstance(images, str | os.PathLike) or not isinstance(images, Iterable)
        single = single or (isinstance(images, np.ndarray) and images.ndim != 4)
        arrays = [self._read(image) for image in ([images] if single else images)]
        results = []
        for image, views in zip(arrays, self._views(arrays, progress), strict=True):
            result = self.model.decode(views, image.shape[:2], options)
            if "hiera_labels" in result:
                result["labels"] = result["hiera_labels"][level]
                result["names"] = self._names(result["labels"], level, options.min_confidence)
            if "hiera_confidence" in result:
                result["scores"] = result["hiera_confidence"][level]
                result["hiera_scores"] = result["hiera_confidence"]  # its name in 0.1, until 0.3
            results.append(result)
        return results[0] if single else results

    def _read(self, image: Image) -> np.ndarray:
        """Return an image (H, W, C) in the model's channel order."""
        if isinstance(image, str | os.PathLike):
            array = self._read_file(os.fspath(image))
            return array if array.ndim == 3 else array[:, :, None]
        of_bands = chosen_bands(self.image_format) is not None
        channels = len(self.model.pixel_mean) if of_bands else 3
        good = isinstance(image, np.ndarray) and image.ndim == 3 and image.size > 0
        good = good and image.shape[2] == channels and (of_bands or image.dtype == np.uint8)
        if not good:
            kind = "an array" if of_bands else "a uint8 array"
            raise ValueError(
                f"images: expected a path or {kind} (H, W, {channels}) "
                f"{'of bands' if of_bands else 'in BGR'}, found {type(image).__name__} "
                f"{getattr(image, 'dtype', '')} {getattr(image, 'shape', '')}"
            )
        if of_bands:
            return select_bands("images", image, "BANDS", None, self._read_file.value_range)
        if self.image_format == "BGR":
            return image
        rgb = image[:, :, ::-1]
        if self.image_format == "RGB":
            return rgb
        return convert_PIL_to_numpy(
            PIL.Image.fromarray(np.ascontiguousarray(rgb)), self.image_format
        )

    @torch.no_grad()
    def _views(self, images: list[np.ndarray], progress: bool = False) -> list[list[NodeView]]:
        if self._augmented is not None:
            return [self._augmented.views(image, progress=progress) for image in images]
        resized = [self._resize.get_transform(image).apply_image(image) for image in images]
        tensors = [
            torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1))) for image in resized
        ]
        return [[view] for view in self.model.node_views(tensors)]

    def _names(self, labels: Tensor, level: int, min_confidence: float | None) -> dict[int, str]:
        """Return a unique name of each node of a label map, the largest area first.

        Names depend on the level and on whether there is a safe depth, not on the image.
        """
        tree = self.hierarchy
        nodes = set(tree.level_nodes(level).tolist())
        if min_confidence is not None:
            nodes = {above for node in nodes for above in tree.ancestors(node)}
        count = Counter(tree.display_names[node] for node in nodes)
        names = {v: tree.display_names[v] for v in nodes if count[tree.display_names[v]] == 1}
        names |= {v: tree.paths[v] for v in nodes - names.keys()}
        if len(set(names.values())) < len(nodes):  # a display name can be the path of another node
            names = {v: tree.paths[v] for v in nodes}
        area = torch.zeros(tree.num_nodes, dtype=torch.int64)
        for rows in labels.split(256):  # an int64 copy of a large map would need much memory
            area += rows.long().flatten().bincount(minlength=len(area)).cpu()
        by_area = area.argsort(descending=True, stable=True).tolist()
        return {v: names[v] for v in by_area if area[v]}
