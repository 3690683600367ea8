"""Convert labelme's JSON files, one per image, to COCO format."""

import logging
import os
from typing import Any

from hiera_seg.data.json_files import is_labelme, read_json_file
from hiera_seg.data.listing import walk_folders
from hiera_seg.errors import DatasetError

logger = logging.getLogger(__name__)

# Shapes whose points are corners. Older files do not name the shape of polygons; "rotation" is
# X-AnyLabeling's name of an oriented rectangle.
_SHAPES = ("polygon", "rectangle", "oriented_rectangle", "rotation", None)


def coco_from_labelme(folder: str) -> dict[str, list[dict]]:
    """Read the labelme files below a folder, at any depth; other JSON files are ignored.

    Polygons and rectangles become regions, those with the label "__ignore__" regions of void, as in
    labelme's own converters. Other shapes are skipped with a warning.

    Returns:
        Images, annotations and categories (the labels in alphabetical order) in COCO format. The
        ``file_name`` of an image is the path of its JSON file below `folder`, with the image's file
        type.

    Raises:
        DatasetError: there is no labelme file, or one is damaged.
    """
    paths = [
        os.path.join(parent, name)
        for parent, names in walk_folders(folder)
        for name in sorted(names)
        if name.lower().endswith(".json")
    ]
    files = {path: content for path in paths if is_labelme(content := read_json_file(path))}
    if not files:
        raise DatasetError(f"no labelme files (json with 'shapes') below {folder}")
    images, annotations, left_out = [], [], []
    shapes = [shape for content in files.values() for shape in content["shapes"]]
    names = sorted({shape["label"] for shape in shapes if isinstance(shape.get("label"), str)})
    ids = {name: number for number, name in enumerate(names, 1)}
    for image_id, (path, content) in enumerate(files.items(), 1):
        stem = os.path.splitext(os.path.relpath(path, folder))[0].replace(os.sep, "/")
        kind = os.path.splitext(str(content.get("imagePath")))[1]
        size = {"height": content.get("imageHeight"), "width": content.get("imageWidth")}
        images.append({"id": image_id, "file_name": f"{stem}{kind}", **size})
        for shape in content["shapes"]:
            polygon = _polygon(shape, path)
            if polygon is None:
                left_out.append(f"{shape.get('shape_type')} in {path}")
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[shape["label"]],
                    "segmentation": [polygon],
                }
            )
    if left_out:
        logger.warning(
            f"{len(left_out)} shapes are neither polygons nor rectangles and are left out, the "
            f"first: {left_out[0]}"
        )
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _polygon(shape: dict[str, Any], path: str) -> list[float] | None:
    """Return the polygon of a shape as x1, y1, x2, y2, ...; None for other shapes."""
    kind = shape.get("shape_type") or None
    if kind not in _SHAPES:
        return None
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
        shape["label"].strip()
        if kind == "rectangle" and len(points) != 4:  # X-AnyLabeling writes all four corners
            (left, top), (right, bottom) = points
            points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path}: bad {kind or 'polygon'} of label {shape.get('label')!r}: {error}"
        ) from error
    return [coordinate for point in points for coordinate in point]
