"""Augment training samples whose labels are node ids."""

import logging

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    VFlipTransform,
)

from hiera_seg.config.image_format import chosen_bands
from hiera_seg.data.flips import mirrors
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy

logger = logging.getLogger(__name__)

# Transforms whose output has no pixels from outside of the image.
_STAYS_INSIDE = (CropTransform, HFlipTransform, VFlipTransform, NoOpTransform, T.ResizeTransform)
_CROP_TRIES = 10  # as Detectron2's crop with a category constraint


class NodeAugInput(T.AugInput):
    """Hold an image and its labels, node ids, for augmentations.

    Detectron2's transforms support only 8-bit labels, so 16-bit labels are transformed as two
    planes of 8 bits. Pixels from outside of the image, such as the corners of a rotated one,
    become void.

    Attributes:
        image: (H, W, C).
        sem_seg: (H, W) node ids, uint8 with void 255, or uint16 with void 65535; or None.
        mirrored: whether the transforms so far have turned left into right.
    """

    def __init__(self, image: np.ndarray, sem_seg: np.ndarray | None = None):
        super().__init__(image)
        self.sem_seg = sem_seg
        self.mirrored = False

    def transform(self, tfm: Transform) -> None:
        self.image = tfm.apply_image(self.image)
        self.mirrored ^= mirrors(tfm)
        if self.sem_seg is None:
            return
        dtype, shape = self.sem_seg.dtype, self.sem_seg.shape
        if dtype == np.uint8:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)
        else:
            low = tfm.apply_segmentation((self.sem_seg & 0xFF).astype(np.uint8))
            high = tfm.apply_segmentation((self.sem_seg >> 8).astype(np.uint8))
            self.sem_seg = (high.astype(np.uint16) << 8) | low
        if not isinstance(tfm, _STAYS_INSIDE):
            inside = tfm.apply_segmentation(np.ones(shape, np.uint8)) == 1
            # Detectron2 fills pixels from outside with 0, which is a node; void is all ones.
            self.sem_seg = np.where(inside, self.sem_seg, np.iinfo(dtype).max).astype(dtype)


class RandomCropByCategory(T.Augmentation):
    """Crop at random, with a limit on the share of labelled pixels that one category fills.

    Up to 10 positions are tried; the last one is used if none is suitable. Void is neither a
    category nor part of the area; a crop of a single category is never suitable.
    """

    def __init__(
        self, crop_type: str, crop_size: tuple[float, float], max_area: float, hierarchy: Hierarchy
    ):
        """
        Args:
            crop_type, crop_size: as in Detectron2's RandomCrop.
            max_area: the largest share of one category, in (0, 1]; 1 allows anything.
            hierarchy: the tree of the labels, whose nodes are the categories.
        """
        super().__init__()
        self.crop = T.RandomCrop(crop_type, crop_size)
        self._init({"crop_type": crop_type, "crop_size": crop_size, "max_area": max_area})
        self.num_categories = hierarchy.num_nodes

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray | None) -> Transform:
        height, width = image.shape[:2]
        for _ in range(_CROP_TRIES):
            crop_h, crop_w = self.crop.get_crop_size((height, width))
            y = np.random.randint(height - crop_h + 1)
            x = np.random.randint(width - crop_w + 1)
            if sem_seg is None or self.max_area >= 1:
                break
            labels = sem_seg[y : y + crop_h, x : x + crop_w]
            labels = labels[labels < self.num_categories]  # without void
            counts = np.bincount(labels, minlength=self.num_categories)
            if counts.max() < self.max_area * counts.sum():
                break
        return CropTransform(x, y, crop_w, crop_h, orig_w=width, orig_h=height)

    def __repr__(self) -> str:
        return (
            f"RandomCropByCategory({self.crop_type!r}, {tuple(self.crop_size)}, "
            f"max_area={self.max_area})"
        )

    __str__ = __repr__


def build_augmentations(
    cfg: CfgNode, is_train: bool, hierarchy: Hierarchy
) -> list[T.Augmentation | Transform]:
    """Build the augmentations of a config: resize, then in training crop, colour and flip.

    Raises:
        ConfigError: COLOR_AUG_SSD with an image format that has neither colours nor bands.
    """
    options = cfg.INPUT
    if not is_train:
        return [T.ResizeShortestEdge(options.MIN_SIZE_TEST, options.MAX_SIZE_TEST, "choice")]
    size = options.MIN_SIZE_TRAIN, options.MAX_SIZE_TRAIN, options.MIN_SIZE_TRAIN_SAMPLING
    augmentations: list[T.Augmentation | Transform] = [T.ResizeShortestEdge(*size)]
    if options.CROP.ENABLED:
        max_area = options.CROP.SINGLE_CATEGORY_MAX_AREA
        augmentations.append(
            RandomCropByCategory(options.CROP.TYPE, options.CROP.SIZE, max_area, hierarchy)
        )
    if options.COLOR_AUG_SSD:
        if chosen_bands(options.FORMAT) is None:
            augmentations.append(_color_augmentation(options.FORMAT))
        else:
            logger.info("INPUT.COLOR_AUG_SSD is skipped, because the channels of images are bands")
    if options.RANDOM_FLIP != "none":
        directions = {name: options.RANDOM_FLIP == name for name in ("horizontal", "vertical")}
        augmentations.append(T.RandomFlip(**directions))
    return augmentations


def _color_augmentation(image_format: str) -> Transform:
    if image_format not in ("BGR", "RGB"):
        raise ConfigError(
            f"INPUT.COLOR_AUG_SSD needs INPUT.FORMAT 'BGR' or 'RGB', found {image_format!r}"
        )
    try:
        from detectron2.projects.point_rend import ColorAugSSDTransform
    except ImportError as error:
        raise ConfigError(
            f"INPUT.COLOR_AUG_SSD is True, which needs OpenCV ({error}): install "
            "opencv-python-headless, or set it to False"
        ) from error
    return ColorAugSSDTransform(img_format=image_format)
