"""Resolve the class tree and the ignore label of a config."""

import hiera_seg.compat  # noqa: F401  (must be imported before detectron2)

# isort: split


from collections.abc import Iterable

from detectron2.config import CfgNode as CN
from detectron2.data import MetadataCatalog

from hiera_seg.errors import ConfigError, HierarchyError
from hiera_seg.hierarchy import Hierarchy

# Projects of the repository that register datasets, by how the names of these begin
DATASET_PROJECTS = {"hiera_generated_": "projects.GeneratedStreets"}
STOCK_IGNORE_VALUE = 255  # Detectron2's default of MODEL.SEM_SEG_HEAD.IGNORE_VALUE


WIDE_IGNORE_VALUE = 65535  # void of 16-bit label files, for trees of more than 255 nodes


def how_to_register(names: Iterable[str]) -> str:
    """Return advice for datasets that are not registered, for an error message."""
    for start, project in DATASET_PROJECTS.items():
        if any(name.startswith(start) for name in names):
            return f"pass --import {project}, with the repository on the Python path"
    return "import the code that registers it first (--import)"


def resolve_hierarchy(cfg: CN) -> Hierarchy:
    """The class tree that a config trains: MODEL.HIERA_SEG.HIERARCHY or the training set's.

    Raises:
        ConfigError: neither is there, or the tree that the key names can not be read.
    """
    if cfg.MODEL.HIERA_SEG.HIERARCHY:
        try:
            return Hierarchy.load(cfg.MODEL.HIERA_SEG.HIERARCHY)
        except HierarchyError as error:
            raise ConfigError(f"MODEL.HIERA_SEG.HIERARCHY: {error}") from error
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        tree = MetadataCatalog.get(name).get("hierarchy")
        if tree is not None:
            return Hierarchy.from_dict(**tree)
    raise ConfigError(
        f"no class tree: none of DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} and DATASETS.TEST "
        f"{tuple(cfg.DATASETS.TEST)} was registered with one; "
        f"{how_to_register((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))}, or set "
        "MODEL.HIERA_SEG.HIERARCHY to a built-in tree or a file"
    )


def resolve_ignore_label(cfg: CN, hierarchy: Hierarchy) -> int:
    """The value that stands for void in the labels of a batch.

    It is MODEL.SEM_SEG_HEAD.IGNORE_VALUE; where that was left at Detectron2's 255 and the tree
    has a node 255, it is 65535.

    Raises:
        ConfigError: the key holds the id of a node.
    """
    value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    if not 0 <= value < hierarchy.num_nodes:
        return value
    if value == STOCK_IGNORE_VALUE:
        return WIDE_IGNORE_VALUE
    raise ConfigError(
        f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {value}, which is node "
        f"{hierarchy.paths[value]!r} of tree {hierarchy.name!r}; choose a value outside "
        f"[0, {hierarchy.num_nodes}), such as {WIDE_IGNORE_VALUE}"
    )
