"""Augmentations of training samples, on labels that are node ids."""

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from hiera_seg.config import STOCK_IGNORE_VALUE, WIDE_IGNORE_VALUE
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy

# Transforms that uncover nothing, so that nobody has to look whether they did.
_STAYS_INSIDE = (CropTransform, HFlipTransform, VFlipTransform, NoOpTransform, T.ResizeTransform)
_CROP_TRIES = 10  # as Detectron2's crop with a category constraint


class NodeAugInput(T.AugInput):
    """An image with labels that are node ids, as augmentations see them.

    Detectron2's transforms handle labels of 8 bits alone. Trees of more than 255 nodes therefore
    travel as two planes of 8 bits, which every transform treats alike. What lies outside of the
    image that was there before, as the corners of a rotated one, is void.

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
        inside = None
        if self.sem_seg is not None and not isinstance(tfm, _STAYS_INSIDE):
            inside = tfm.apply_segmentation(np.ones(self.sem_seg.shape, np.uint8)) == 1
        if self.sem_seg is not None and self.sem_seg.dtype == np.uint8:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)
        elif self.sem_seg is not None:
            low = tfm.apply_segmentation((self.sem_seg & 0xFF).astype(np.uint8))
            high = tfm.apply_segmentation((self.sem_seg >> 8).astype(np.uint8))
            self.sem_seg = (high.astype(np.uint16) << 8) | low
        if inside is not None and not inside.all():
            # Detectron2 fills what a rotation uncovers with 0, which is a node
            void = STOCK_IGNORE_VALUE if self.sem_seg.dtype == np.uint8 else WIDE_IGNORE_VALUE
            self.sem_seg = np.where(inside, self.sem_seg, np.array(void, self.sem_seg.dtype))
        self.mirrored ^= _mirrors(tfm)


class RandomCropByCategory(T.Augmentation):
    """A random crop in which no category fills more than a share of the labelled pixels.

    Tries up to 10 places; the last one is taken where none will do. Void counts neither as a
    category nor as area, and a crop of one category alone never passes.
    """

    def __init__(
        self,
        crop_type: str,
        crop_size: tuple[float, float],
        max_area: float,
        hierarchy: Hierarchy,
        level: int | str = -1,
    ):
        """
        Args:
            crop_type, crop_size: as in Detectron2's RandomCrop.
            max_area: the largest share of one category, in (0, 1]; 1 allows anything.
            hierarchy: the tree of the labels.
            level: the level whose nodes are the categories, index or name; a label on an inner
                node above it is a category of its own.
        """
        super().__init__()
        self.crop = T.RandomCrop(crop_type, crop_size)
        nodes = np.arange(hierarchy.num_nodes)
        at_level = hierarchy.level_ancestor[hierarchy.level_index(level)]
        void = WIDE_IGNORE_VALUE if is_wide(hierarchy) else STOCK_IGNORE_VALUE
        category = np.full(void + 1, hierarchy.num_nodes, dtype=np.intp)
        category[nodes] = np.where(at_level >= 0, at_level, nodes)
        self._category = category
        self._init(
            {"crop_type": crop_type, "crop_size": crop_size, "max_area": max_area, "level": level}
        )
        self.num_categories = hierarchy.num_nodes

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray | None) -> Transform:
        height, width = image.shape[:2]
        for _ in range(_CROP_TRIES):
            crop_h, crop_w = self.crop.get_crop_size((height, width))
            y = np.random.randint(height - crop_h + 1)
            x = np.random.randint(width - crop_w + 1)
            if sem_seg is None or self.max_area >= 1:
                break
            category = self._category.take(sem_seg[y : y + crop_h, x : x + crop_w])
            counts = np.bincount(category.ravel(), minlength=self.num_categories + 1)[:-1]
            if counts.max() < self.max_area * counts.sum():
                break
        return CropTransform(x, y, crop_w, crop_h, orig_w=width, orig_h=height)

    def __repr__(self) -> str:
        return (
            f"RandomCropByCategory({self.crop_type!r}, {tuple(self.crop_size)}, "
            f"max_area={self.max_area}, level={self.level!r})"
        )

    __str__ = __repr__


def is_wide(hierarchy: Hierarchy) -> bool:
    """Whether node ids and void need more than 8 bits."""
    return hierarchy.num_nodes > STOCK_IGNORE_VALUE


def build_augmentations(
    cfg: CfgNode, is_train: bool, hierarchy: Hierarchy
) -> list[T.Augmentation | Transform]:
    """The augmentations that a config asks for: resize, then in training crop, colour and flip.

    Args:
        cfg: its INPUT node is read.
        is_train: training or test.
        hierarchy: the tree of the labels.

    Raises:
        ConfigError: COLOR_AUG_SSD with an image format that has no colours.
    """
    options = cfg.INPUT
    if not is_train:
        return [T.ResizeShortestEdge(options.MIN_SIZE_TEST, options.MAX_SIZE_TEST, "choice")]
    augmentations: list[T.Augmentation | Transform] = [
        T.ResizeShortestEdge(
            options.MIN_SIZE_TRAIN, options.MAX_SIZE_TRAIN, options.MIN_SIZE_TRAIN_SAMPLING
        )
    ]
    if options.CROP.ENABLED:
        max_area = options.CROP.SINGLE_CATEGORY_MAX_AREA
        augmentations.append(
            RandomCropByCategory(options.CROP.TYPE, options.CROP.SIZE, max_area, hierarchy)
        )
    if options.COLOR_AUG_SSD:
        augmentations.append(_color_augmentation(options.FORMAT))
    if options.RANDOM_FLIP != "none":
        directions = {name: options.RANDOM_FLIP == name for name in ("horizontal", "vertical")}
        augmentations.append(T.RandomFlip(**directions))
    return augmentations


def _color_augmentation(image_format: str) -> Transform:
    if image_format not in ("BGR", "RGB"):
        raise ConfigError(
            f"INPUT.COLOR_AUG_SSD wants INPUT.FORMAT 'BGR' or 'RGB', which is {image_format!r}"
        )
    try:
        from detectron2.projects.point_rend import ColorAugSSDTransform
    except ImportError as error:
        raise ConfigError(
            f"INPUT.COLOR_AUG_SSD is True, which needs OpenCV ({error}): install "
            "opencv-python-headless, or set it to False"
        ) from error
    return ColorAugSSDTransform(img_format=image_format)


def _mirrors(tfm: Transform) -> bool:
    if isinstance(tfm, TransformList):
        return sum(_mirrors(t) for t in tfm.transforms) % 2 == 1
    # Upside down is a mirror image too, only turned by half a circle.
    return isinstance(tfm, HFlipTransform | VFlipTransform)
