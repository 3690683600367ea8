"""The predictor: a config and its weights as a function of images."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import PIL.Image
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from torch import Tensor

from hiera_seg.data.images import ImageReader
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference.augmentation import HieraSegmentorWithTTA
from hiera_seg.inference.weights import build_for_eval
from hiera_seg.modeling import DecodeOptions, HieraSegmentor, NodeView

Image = np.ndarray | str | os.PathLike


class HieraPredictor:
    """Segments images as a config says: INPUT at test time, MODEL.HIERA_SEG.TEST, TEST.AUG.

    ::

        predictor = HieraPredictor(cfg)                        # weights: MODEL.WEIGHTS
        result = predictor("street.jpg", level="group")
        result["labels"], result["names"]

    Attributes:
        model: the segmentor, in eval.
        hierarchy: its tree.
    """

    def __init__(self, cfg: CfgNode, model: HieraSegmentor | None = None):
        """
        Args:
            cfg: a config with a HieraSegmentor.
            model: a model with its weights; None builds it and loads MODEL.WEIGHTS, or the last
                checkpoint of OUTPUT_DIR where that is empty. The averaged weights are taken if
                SOLVER.EMA is enabled and the file has them.

        Raises:
            ConfigError: the model is no HieraSegmentor, or there are no weights.
            CheckpointError: MODEL.WEIGHTS names no file, or weights of another or untrained head.
        """
        if model is None:
            model, _ = build_for_eval(cfg)
        if not isinstance(model, HieraSegmentor):
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}; HieraPredictor wants a "
                "HieraSegmentor"
            )
        self.model = model.eval()
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
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Segment an image, or a list of images.

        Args:
            images: a path, or an array uint8 (H, W, 3) in BGR, as OpenCV reads it and Detectron2's
                predictor takes it; or a batch: a list of these, of any sizes, or an array
                (B, H, W, 3). Images that are padded to one size go through the network at once.
            level: of "labels": an index or a name; default: the finest.
            safe_depth: the minimum confidence: predict an inner node if its best child scores below
                this; default: that of `options`.
            scores: also return the score of each label, as defined by the decode variant.
            options: how to decode; default: as configured.

        Returns:
            For an image a dict, for a list a list of them. Tensors are on the model's device:

            - "labels": int64 (H, W), the node ids at `level`;
            - "names": {node id: display name} of the nodes in "labels", the largest area first;
            - "scores": float (H, W), the score of each pixel's label at `level`, and
              "hiera_confidence", such a map per level; with `scores`;
            - "sem_seg", "hiera_labels", "hiera_labels_direct": what the model gives, see
              :class:`~hiera_seg.modeling.HieraSegmentor`; which of them, TEST.OUTPUT and
              TEST.DIRECT decide. With TEST.OUTPUT "scores" there are no labels and no names.

        Raises:
            DatasetError: a file can not be read.
            HierarchyError: the tree has no such level.
            ValueError: an array that is no image; or `level`, `safe_depth` or `scores` of a model
                whose TEST.OUTPUT is "scores".
        """
        options = options or self.model.decode_options
        if options.output == "scores" and (scores or (level, safe_depth) != (None, None)):
            raise ValueError(
                "level, safe_depth and scores are of label maps, but MODEL.HIERA_SEG.TEST.OUTPUT "
                "is 'scores': set it to 'both' or 'labels'"
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
        for image, views in zip(arrays, self._views(arrays), strict=True):
            result = self.model.decode(views, image.shape[:2], options)
            if "hiera_labels" in result:
                result["labels"] = result["hiera_labels"][level].long()
                result["names"] = self._names(result["labels"])
            if "hiera_confidence" in result:
                result["scores"] = result["hiera_confidence"][level]
                result["hiera_scores"] = result["hiera_confidence"]  # its name in 0.1, until 0.3
            results.append(result)
        return results[0] if single else results

    def _read(self, image: Image) -> np.ndarray:
        """(H, W, C) in the model's channel order."""
        if isinstance(image, str | os.PathLike):
            array = self._read_file(os.fspath(image))
            return array if array.ndim == 3 else array[:, :, None]
        if not isinstance(image, np.ndarray):
            raise ValueError(
                f"an image is a path, or a uint8 array (H, W, 3) in BGR, not {type(image).__name__}"
            )
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(
                f"an image is a path, or a uint8 array (H, W, 3) in BGR, not {image.dtype} of "
                f"shape {image.shape}"
            )
        if self.image_format == "BGR":
            return image
        rgb = image[:, :, ::-1]
        if self.image_format == "RGB":
            return rgb
        return convert_PIL_to_numpy(
            PIL.Image.fromarray(np.ascontiguousarray(rgb)), self.image_format
        )

    @torch.no_grad()
    def _views(self, images: list[np.ndarray]) -> list[list[NodeView]]:
        if self._augmented is not None:
            return [self._augmented.views(image) for image in images]
        resized = [self._resize.get_transform(image).apply_image(image) for image in images]
        tensors = [
            torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1))) for image in resized
        ]
        return [[view] for view in self.model.node_views(tensors)]

    def _names(self, labels: Tensor) -> dict[int, str]:
        counts = labels.flatten().bincount(minlength=self.hierarchy.num_nodes).tolist()
        present = sorted((v for v, count in enumerate(counts) if count), key=lambda v: -counts[v])
        return {v: self.hierarchy.display_names[v] for v in present}
