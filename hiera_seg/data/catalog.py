"""Register datasets with a class tree."""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from hiera_seg.config.resolve import DATASET_PROJECTS, how_to_register
from hiera_seg.data.flips import check_flip_pairs
from hiera_seg.data.labels import LabelReader, default_void
from hiera_seg.data.sources import DatasetSource
from hiera_seg.errors import ConfigError, DatasetError, HierarchyError
from hiera_seg.hierarchy import Hierarchy, as_hierarchy, tree_colors
from hiera_seg.hierarchy.messages import suggestion

logger = logging.getLogger(__name__)


def register_hierarchical_dataset(
    name: str,
    source: Callable[[], list[dict]] | Sequence[Mapping] | str | os.PathLike | None = None,
    *,
    hierarchy: Hierarchy | Mapping | Sequence | str | os.PathLike,
    label_map: Mapping | None = None,
    image_root: str | os.PathLike | None = None,
    sem_seg_root: str | os.PathLike | None = None,
    ignore_label: int | None = None,
    image_suffix: str = "",
    label_suffix: str = "",
    image_glob: str = "",
    split_file: str | os.PathLike | None = None,
    resize_labels: str | None = None,
    label_variable: str | None = None,
    **metadata: Any,
) -> None:
    """Register a dataset whose pixels are labelled with nodes of a class tree.

    No file is read until the dataset is used. Paths may hold ``~`` and environment variables, which
    are replaced at that time; ``$DETECTRON2_DATASETS`` is ``datasets`` if it is not set, as in
    Detectron2.

    Args:
        name: name for ``cfg.DATASETS`` and the catalogs.
        source: the list of files: a callable that returns dicts in Detectron2's format
            (``file_name``, ``sem_seg_file_name``, ...); a list of such dicts, or a json file of
            them, with paths relative to the roots (without roots, to the current folder or to the
            folder of the json file); or None to pair the images below ``image_root`` with the
            labels below ``sem_seg_root`` by :func:`~hiera_seg.data.pair_files`.
        hierarchy: the tree: an object, a nested dict or a list (or a result of ``to_dict``), the
            name of a built-in tree, or a file.
        label_map: maps the ids in the label files to nodes, see
            :class:`~hiera_seg.data.labels.LabelReader`. None: the files hold node ids.
        image_root: folder of the images.
        sem_seg_root: folder of the label files.
        ignore_label: void in the labels; default 255, or 65535 if the tree has a node 255.
        image_suffix, label_suffix, image_glob, split_file: which files of the roots belong to the
            dataset, see :func:`~hiera_seg.data.pair_files`; only without a `source`.
        resize_labels: "nearest" resizes labels of another size than their image, by the nearest
            pixel; None makes them an error.
        label_variable: name of the label map in ``.mat`` files with several arrays, with dots for
            fields of a struct ("GTcls.Segmentation").
        metadata: further entries of the dataset's metadata. Those with a meaning here are
            ``raw_classes``, names of the raw ids, which keys of ``label_map`` may use;
            ``flip_pairs``, pairs of nodes that swap when an image is mirrored:
            ``[("left-arm", "right-arm"), ...]``; ``unscored_classes``, leaves that are trained but
            excluded from the means; and ``void_classes``, names of published classes that are void
            here, which a second mean (``mIoU_all``) counts as 0.

    Raises:
        DatasetError: an argument is invalid or does not fit the tree.
        HierarchyError: the tree cannot be read.
    """
    if name in DatasetCatalog:
        raise DatasetError(
            f"dataset {name!r} is already registered; choose another name, or remove it first "
            f"with DatasetCatalog.remove({name!r}) and MetadataCatalog.remove({name!r})"
        )
    if "stuff_classes" in metadata:
        raise DatasetError(
            f"dataset {name!r}: metadata 'stuff_classes' is set from the tree; omit it"
        )
    reading = {"resize_labels": resize_labels, "label_variable": label_variable}
    tree = as_hierarchy(hierarchy)
    ignore_label = default_void(tree) if ignore_label is None else ignore_label
    try:
        LabelReader(
            tree, label_map, ignore_label, metadata.get("raw_classes"), name=name,
            resize=resize_labels, variable=label_variable,
        )  # fmt: skip
        if pairs := metadata.get("flip_pairs"):
            check_flip_pairs(pairs, tree)
        resolve_unscored(metadata.get("unscored_classes"), tree)
        check_metric_names(tree, metadata)
    except DatasetError as error:
        raise DatasetError(f"dataset {name!r}: {error}") from error

    roots = {"image_root": image_root, "sem_seg_root": sem_seg_root}
    roots = {key: os.fspath(root) for key, root in roots.items() if root is not None}
    pairing = {
        "image_suffix": image_suffix,
        "label_suffix": label_suffix,
        "image_glob": image_glob,
        "split_file": split_file,
    }
    _check_source(name, source, roots, pairing)
    if isinstance(source, list | tuple):
        source = list(source)  # a copy
    entries = {
        "evaluator_type": "hiera_sem_seg",
        "stuff_classes": list(tree.display_names[: tree.num_leaves]),
        "stuff_colors": tree_colors(tree)[: tree.num_leaves].tolist(),
        "ignore_label": ignore_label,
        "hierarchy": tree.to_dict(),
        "label_map": None if label_map is None else dict(label_map),
        **roots,
        **{key: value for key, value in reading.items() if value is not None},
        **metadata,
    }
    if name in MetadataCatalog:
        before = MetadataCatalog.get(name).as_dict()
        differ = [key for key in entries if key in before and before[key] != entries[key]]
        if differ:
            raise DatasetError(
                f"dataset {name!r}: its metadata already holds another {differ[0]!r}; choose "
                f"another name, or remove it first with MetadataCatalog.remove({name!r})"
            )
    MetadataCatalog.get(name).set(**entries)
    DatasetCatalog.register(name, DatasetSource(name, source, **roots, **pairing))


def _check_source(name: str, source: Any, roots: Mapping[str, str], pairing: Mapping) -> None:
    """Raise DatasetError if a source cannot list files, or its keywords do not fit it."""
    if source is None and "image_root" not in roots:
        raise DatasetError(
            f"dataset {name!r}: specify image_root (and sem_seg_root), or a source: a callable, a "
            "list of dicts or a json file of dicts"
        )
    for key, value in pairing.items():
        if value and source is not None:
            raise DatasetError(
                f"dataset {name!r}: {key} is {value!r}, but the files are listed by the source; "
                "omit one of them"
            )


def register_builtin_dataset(
    name: str, *args: Any, hierarchy: Any, label_map: Mapping | None = None, **kwargs: Any
) -> None:
    """Register a dataset of the package, unless a user has registered one of the same name.

    The arguments are those of :func:`register_hierarchical_dataset`, except that a label map need
    not name the ignore label, and that None means that label files hold leaf ids.
    """
    if name in DatasetCatalog:
        logger.info(
            f"Dataset {name} was registered before hiera_seg was imported; keeping that one"
        )
        return
    tree = as_hierarchy(hierarchy)
    if label_map is None:
        label_map = {leaf: leaf for leaf in range(tree.num_leaves)}
    label_map = {default_void(tree): None, **label_map}
    register_hierarchical_dataset(name, *args, hierarchy=tree, label_map=label_map, **kwargs)


def require_registered(names: Sequence[str], where: str, *, some: bool = False) -> None:
    """Raise ConfigError if a dataset that `where` names is not registered, naming near ones.

    With `some`, also if there is no name.
    """
    if some and not names:
        raise ConfigError(f"{where} is empty; name at least one registered dataset")
    for name in names:
        if name not in DatasetCatalog:
            raise ConfigError(
                f"{where} names the dataset {name!r}, which is not registered"
                f"{suggestion(name, DatasetCatalog.list())}; {how_to_register([name])}"
            )


def import_modules(modules: Iterable[str], *, tool: str | os.PathLike | None = None) -> None:
    """Import modules that register datasets, from the current folder or as installed.

    If `tool` is the path of one of the repository's scripts, the projects beside it that register
    datasets are imported as well.

    Raises:
        ConfigError: a module is not found.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if tool is not None:
        modules = [*_projects_beside(tool), *modules]
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"--import {module}: {error.msg}; specify a module, without .py, that is in "
                f"{os.getcwd()} or is installed"
            ) from error


def _projects_beside(tool: str | os.PathLike) -> list[str]:
    for repository in Path(tool).resolve().parents[1:3]:  # of tools/x.py, projects/NAME/x.py
        names = DATASET_PROJECTS.values()
        found = [name for name in names if (repository / name.replace(".", "/")).is_dir()]
        if found:
            if str(repository) not in sys.path:
                sys.path.append(str(repository))
            return found
    return []


def find_leaf(hierarchy: Hierarchy, name: str | int, where: str) -> int:
    """Return the node id of a leaf.

    Raises:
        DatasetError: `name` is not a leaf of the tree; the message begins with `where`.
    """
    try:
        node = int(hierarchy.id(name))
    except HierarchyError as error:
        raise DatasetError(f"{where}: {error}") from error
    if node >= hierarchy.num_leaves:
        raise DatasetError(
            f"{where}: {name!r} is the inner node {hierarchy.paths[node]!r}; specify a leaf"
        )
    return node


def resolve_unscored(leaves: Iterable[str | int] | None, hierarchy: Hierarchy) -> list[int]:
    """Return the node ids of the leaves that ``unscored_classes`` of a dataset names."""
    return [find_leaf(hierarchy, leaf, "unscored_classes") for leaf in leaves or ()]


def check_metric_names(tree: Hierarchy, metadata: Mapping[str, Any]) -> None:
    """Check that all scores of an evaluation have different names, and their classes are names.

    Args:
        tree: the tree of the evaluation.
        metadata: the metadata of the dataset.

    Raises:
        DatasetError: two scores would have the same name (the message says what to rename), or
            ``void_classes`` is not a list of names.
    """
    void_classes = metadata.get("void_classes") or ()
    if isinstance(void_classes, str) or not all(isinstance(name, str) for name in void_classes):
        raise DatasetError(f"void_classes is {void_classes!r}; specify a list of names")
    if "all" in tree.level_names and any(map(metadata.get, ("unscored_classes", "void_classes"))):
        raise DatasetError(
            "the level 'all' and the mean over all published classes would share the metric key "
            "'mIoU_all'; rename the level"
        )
    leaves = {tree.display_names[leaf] for leaf in range(tree.num_leaves)}
    for level, level_name in enumerate(tree.level_names):
        for node in tree.level_nodes(level):
            key = f"{level_name}-{tree.display_names[node]}"
            if key in leaves:
                raise DatasetError(
                    f"leaf {key!r} and {tree.display_names[node]!r} at level {level_name!r} would "
                    f"share the metric key 'IoU-{key}'; rename one"
                )
