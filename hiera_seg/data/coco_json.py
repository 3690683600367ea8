"""Register datasets whose labels are regions in a COCO json file."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from hiera_seg.data.catalog import find_leaf, register_hierarchical_dataset
from hiera_seg.data.json_files import is_labelme, read_json_file
from hiera_seg.data.labels import default_void
from hiera_seg.data.listing import expand_root
from hiera_seg.data.regions import RegionLabels
from hiera_seg.errors import DatasetError, HierarchyError
from hiera_seg.hierarchy import Hierarchy, as_hierarchy
from hiera_seg.hierarchy.messages import listing

logger = logging.getLogger(__name__)

_NO_SUPERCATEGORY = ("", "none")  # as exports of CVAT and Roboflow write it
_IGNORED = "__ignore__"  # labelme's name of void


def register_coco_hierarchical(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    hierarchy: Hierarchy | Mapping | Sequence | str | os.PathLike | None = None,
    background: str | None = None,
) -> None:
    """Register a dataset whose labels are the regions of a COCO json file.

    The instance annotations of COCO and LVIS can be read, and exports of CVAT, Label Studio or
    Roboflow in COCO format: polygons and run-length encodings, compressed or not, including crowd
    regions. Label maps are drawn when an image is read, smaller regions on top of larger ones.
    ``tools/convert_annotations.py`` writes them to PNG files. Regions of a category "__ignore__",
    which is labelme's name of void, are void.

    Categories are read now, annotations and images when the dataset is used.

    Args:
        name: name for ``cfg.DATASETS`` and the catalogs.
        json_file: the COCO file. It may hold ``~`` and environment variables.
        image_root: folder of the images; ``file_name`` of an image is a path below it, without its
            leading folders if there is no such file.
        hierarchy: a tree that has a node for each category, found by "supercategory/name" or by
            name. None: the leaves are the categories in the order of the file, below their
            ``supercategory``; a category that is the supercategory of others is an inner node.
        background: leaf of the pixels outside all regions, added to the tree of the categories if
            it is not among them. None: those pixels are void.

    Raises:
        DatasetError: the file cannot be read or is not in COCO format, or the tree lacks a category
            or the background.
        HierarchyError: the categories do not form a valid tree.
    """
    path = expand_root(json_file)
    categories = _read_categories(_read_coco(path), path)
    void = [number for number, (_, label) in categories.items() if label == _IGNORED]
    named = {number: entry for number, entry in categories.items() if number not in void}
    paths = _category_paths(named, path)
    if hierarchy is None:
        tree = _tree_of(paths.values(), background, path)
    else:
        tree = as_hierarchy(hierarchy)
    ignore_label = default_void(tree)
    nodes = _find_nodes(tree, paths, path) | dict.fromkeys(void, ignore_label)
    fill = ignore_label
    if background is not None:
        fill = find_leaf(tree, background, f"{path}: background {background!r}")
    register_hierarchical_dataset(
        name,
        CocoSource(os.fspath(json_file), os.fspath(image_root), nodes, fill, ignore_label > 255),
        hierarchy=tree,
        # Void is mapped explicitly, because checks report ids that are void only by default.
        label_map={**{node: node for node in range(tree.num_nodes)}, ignore_label: None},
        ignore_label=ignore_label,
        json_file=os.fspath(json_file),
        image_root=os.fspath(image_root),
    )


class CocoSource:
    """List the images of a COCO json file with their label maps when called; can be pickled.

    `nodes` maps category ids to node ids or the ignore label, and `fill` is the node id of the
    background, or the ignore label; `wide` label maps have 16 bits per pixel.
    """

    def __init__(
        self, json_file: str, image_root: str, nodes: Mapping[int, int], fill: int, wide: bool
    ) -> None:
        self.json_file = json_file
        self.image_root = image_root
        self.nodes = dict(nodes)
        self.fill = fill
        self.dtype = "uint16" if wide else "uint8"

    def __call__(self) -> list[dict]:
        """Return one dict per image, in the order of the file.

        Raises:
            DatasetError: the folder of the images is missing, an image or an annotation lacks a
                required key, or two images have the same id or file.
        """
        path, root = expand_root(self.json_file), expand_root(self.image_root)
        if not os.path.isdir(root):
            raise DatasetError(f"image folder not found: {root}")
        content = _read_coco(path)
        images: dict[Any, dict] = {}
        for image in content["images"]:
            if images.setdefault(_value(image, "id", path), image) != image:
                raise DatasetError(f"{path} has two images of id {image['id']!r}")
        known = {"image_id": images, "category_id": self.nodes}
        regions: dict[Any, list] = {image_id: [] for image_id in images}
        no_mask = 0
        for annotation in content["annotations"]:
            what = f"annotation {annotation.get('id')}"
            for key in known:
                if _value(annotation, key, path) not in known[key]:
                    raise DatasetError(f"{path}: {what} has the unknown {key} {annotation[key]!r}")
            if segmentation := annotation.get("segmentation"):
                node = self.nodes[annotation["category_id"]]
                regions[annotation["image_id"]].append((what, node, segmentation))
            else:
                no_mask += 1
        if no_mask:
            message = f"{path}: {no_mask} of {len(content['annotations'])} annotations have no mask"
            if no_mask == len(content["annotations"]):
                raise DatasetError(f"{message}; export polygons or masks, not boxes")
            logger.warning(f"{message} (only a box); their pixels are not labelled")
        records: dict[str, dict] = {}
        for number, image in images.items():
            record = self._record(image, regions[number], path, root)
            if (other := records.setdefault(record["file_name"], record)) is not record:
                raise DatasetError(
                    f"{path}: images {other['image_id']!r} and {number!r} are both "
                    f"{record['file_name']}; give their annotations one image_id"
                )
        return list(records.values())

    def _record(self, image: Mapping, regions: list, path: str, root: str) -> dict:
        size = (int(_value(image, "height", path)), int(_value(image, "width", path)))
        below = _image_path(image, path)
        found = (os.path.join(root, *below.parts[i:]) for i in range(len(below.parts)))
        file_name = next(filter(os.path.isfile, found), os.path.join(root, below))
        return {
            "file_name": file_name,
            "sem_seg_file_name": RegionLabels.of(
                f"{path}/{below}", size, regions, self.fill, self.dtype
            ),
            "height": size[0],
            "width": size[1],
            "image_id": image["id"],
        }


def _read_coco(path: str) -> dict:
    content = read_json_file(path)
    missing = [key for key in ("images", "annotations", "categories") if not _is_list(content, key)]
    if not missing:
        if any("segments_info" in annotation for annotation in content["annotations"][:1]):
            raise DatasetError(
                f"{path} is a COCO panoptic file, whose regions are in PNG files; convert it with "
                "panoptic2detection_coco_format.py of panopticapi, or the files of COCO 2017 with "
                "datasets/prepare_coco_panoptic.py"
            )
        return content
    if isinstance(content, list):
        hint = "; a list of dicts in Detectron2's format is a source of "
        hint += "register_hierarchical_dataset"
    elif is_labelme(content):
        hint = "; convert labelme files to label files with tools/convert_annotations.py"
    else:
        hint = f"; it lacks a list of {', '.join(missing)}"
    raise DatasetError(
        f"{path}: expected a COCO file, with lists of images, annotations and categories{hint}"
    )


def _is_list(content: Any, key: str) -> bool:
    value = content.get(key) if isinstance(content, dict) else None
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _read_categories(content: dict, path: str) -> dict[Any, tuple[str, str]]:
    """Return {category id: (supercategory or "", name)} in the order of the file."""
    if not content["categories"]:
        raise DatasetError(f"{path} is a COCO file without categories")
    categories: dict[Any, tuple[str, str]] = {}
    for category in content["categories"]:
        number = _value(category, "id", path)
        # "/" separates the names of a path in the tree.
        name = str(_value(category, "name", path)).strip().replace("/", "-")
        above = str(category.get("supercategory") or "").strip().replace("/", "-")
        entry = ("" if above.lower() in _NO_SUPERCATEGORY else above, name)
        if categories.setdefault(number, entry) != entry:
            raise DatasetError(
                f"{path} has two categories of id {number!r}: {categories[number]} and {entry}"
            )
    return categories


def _category_paths(categories: Mapping[Any, tuple[str, str]], path: str) -> dict[Any, tuple]:
    """Return {category id: names from the top of the tree down}."""
    # A category below itself, as COCO's person, is a leaf of a group of the same name.
    above = {name: group for group, name in categories.values() if group != name}

    def group_path(group: str) -> tuple[str, ...]:
        names = [group]
        while above.get(names[-1]):
            names.append(above[names[-1]])
            if len(names) > len(above) + 1:
                raise DatasetError(
                    f"{path}: the supercategories of {group!r} lead back to it: "
                    f"{' > '.join(dict.fromkeys(names))}"
                )
        return tuple(names[::-1])

    return {
        number: (*(group_path(group) if group else ()), name)
        for number, (group, name) in categories.items()
    }


def _tree_of(paths: Iterable[tuple], background: str | None, path: str) -> Hierarchy:
    paths = list(dict.fromkeys(paths))
    if background is not None and all(names[-1] != background for names in paths):
        paths.append((background,))
    try:
        return Hierarchy.from_paths(map("/".join, paths), name=PurePosixPath(path).stem)
    except HierarchyError as error:
        raise HierarchyError(f"{path}: the categories do not form a tree: {error}") from error


def _find_nodes(tree: Hierarchy, paths: Mapping[Any, tuple], path: str) -> dict[Any, int]:
    """Return {category id: node id}."""
    by_path = {names: node for node, names in enumerate(tree.paths)}
    groups = {names[0] for names in paths.values() if len(names) > 1}
    nodes, missing = {}, []
    for number, names in paths.items():
        try:
            node = by_path.get("/".join(names))
            # A bare name means the leaf if a leaf and a group have it.
            by_name = node is None or (node >= tree.num_leaves and names[0] not in groups)
            nodes[number] = int(tree.id(names[-1])) if by_name else node
        except HierarchyError as error:
            if names[-1] in tree.node_names:  # several nodes have this name
                raise DatasetError(f"{path}: category {number!r}: {error}") from error
            missing.append(names[-1])
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} of {len(paths)} categories are not in tree {tree.name!r}: "
            f"{listing(missing, 5)}; add them to the tree, or rename them"
        )
    return nodes


def _image_path(image: Mapping, path: str) -> PurePosixPath:
    """Return the path of an image below its root."""
    # LVIS has addresses, of which the last two parts are the folder and the file.
    name = image.get("file_name")
    parts = str(name or image.get("coco_url") or "").replace("\\", "/").split("/")
    parts = [part for part in parts if part not in ("", ".", "..") and not part.endswith(":")]
    if not parts:
        raise DatasetError(f"{path}: image {image.get('id')} has no 'file_name'")
    return PurePosixPath(*(parts if name else parts[-2:]))


def _value(entry: Mapping, key: str, path: str) -> Any:
    """Return a required value of an entry of the file."""
    value = entry.get(key)
    if value is None or isinstance(value, list | dict):
        shown = {k: str(v)[:40] for k, v in list(entry.items())[:3]}
        raise DatasetError(f"{path}: {key!r} is {value!r} in the entry {shown}")
    return value
