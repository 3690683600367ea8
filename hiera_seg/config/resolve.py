"""Resolve the class tree, the ignore label and the renamed keys of a config."""

import hiera_seg.compat  # noqa: F401  (must be imported before detectron2)

# isort: split

import warnings
from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog

from hiera_seg.config.checks import items_of, value_of
from hiera_seg.config.defaults import OLD_KEYS, add_defaults
from hiera_seg.errors import ConfigError, HierarchyError
from hiera_seg.hierarchy import Hierarchy

# Projects of the repository that register datasets, by prefix of the datasets' names.
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
    """Return the class tree of a config: MODEL.HIERA_SEG.HIERARCHY, or that of its datasets.

    Raises:
        ConfigError: there is no tree, or the one that the key names cannot be read.
    """
    if cfg.MODEL.HIERA_SEG.HIERARCHY:
        try:
            return Hierarchy.load(cfg.MODEL.HIERA_SEG.HIERARCHY)
        except HierarchyError as error:
            key, value = "MODEL.HIERA_SEG.HIERARCHY", cfg.MODEL.HIERA_SEG.HIERARCHY
            raise ConfigError(f"{key}: {error}", key=key, value=value) from error
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        tree = MetadataCatalog.get(name).get("hierarchy")
        if tree is not None:
            return Hierarchy.from_dict(**tree)
    raise ConfigError(
        f"no class tree: neither DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} nor DATASETS.TEST "
        f"{tuple(cfg.DATASETS.TEST)} has a dataset that was registered with one; "
        f"{how_to_register((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))}, or set "
        "MODEL.HIERA_SEG.HIERARCHY to a built-in tree or a file"
    )


def resolve_ignore_label(cfg: CN, hierarchy: Hierarchy) -> int:
    """Return the value that marks void pixels in the labels of a batch.

    It is MODEL.SEM_SEG_HEAD.IGNORE_VALUE, or 65535 if this is Detectron2's default 255 and the
    tree has a node 255.

    Raises:
        ConfigError: the value is the id of a node.
    """
    value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    if not 0 <= value < hierarchy.num_nodes:
        return value
    if value == STOCK_IGNORE_VALUE:
        return WIDE_IGNORE_VALUE
    raise ConfigError(
        f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {value}, which is node "
        f"{hierarchy.paths[value]!r} of tree {hierarchy.name!r}; choose a value outside "
        f"[0, {hierarchy.num_nodes}), such as {WIDE_IGNORE_VALUE}",
        key="MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
        value=value,
    )


def changed_items(cfg: CN) -> dict[str, Any]:
    """Return the keys of a config that are not in the defaults, or have another value there."""
    defaults = get_cfg()
    add_defaults(defaults)
    before, missing = dict(items_of(defaults)), object()
    return {key: value for key, value in items_of(cfg) if value != before.get(key, missing)}


def map_old_keys(cfg: CN, before: CN | None = None) -> CN:
    """Move the values of renamed keys to their new names, with a warning.

    Where both names were set, the new one has priority.

    Args:
        cfg: a config, which may be frozen; it is not changed.
        before: the config before a file or options were merged into it; None means the defaults.

    Returns:
        `cfg` itself if it sets no old key, otherwise a copy in which all old keys are None.
    """
    found = {old: new for old, new in OLD_KEYS.items() if value_of(cfg, old) is not None}
    if not found:
        return cfg
    if before is None:
        before = get_cfg()
        add_defaults(before)
    frozen, cfg = cfg.is_frozen(), cfg.clone()
    cfg.defrost()
    for old, new in found.items():
        warnings.warn(
            f"config key {old} was renamed to {new}; please change it, because the old name will "
            "be removed in the next version",
            FutureWarning,
            stacklevel=2,
        )
        value = value_of(cfg, new)
        if value == value_of(before, new):
            value = value_of(cfg, old)
        cfg.merge_from_list([old, None, new, value])
    if frozen:
        cfg.freeze()
    return cfg
