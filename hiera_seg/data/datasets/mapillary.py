"""Register Mapillary Vistas 2.0 (124 classes) and 1.2 (66): street photos, often of 16 MP.

Neuhold et al.: The Mapillary Vistas dataset for semantic understanding of street scenes, ICCV 2017.
Label files are palette images, whose indices are the ids (colours repeat in version 2.0).
"""

import os
from functools import partial

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.data.listing import expand_root, pair_files
from hiera_seg.hierarchy import Hierarchy

ROOT = "$DETECTRON2_DATASETS/mapillary_vistas"
SPLITS = {"train": "training", "val": "validation"}  # split: folder of the release

# The classes of 2.0 that its config does not evaluate, besides "void--unlabeled".
UNSCORED_V2 = (
    "construction--barrier--ambiguous",
    "human--person--person-group",
    "marking--discrete--ambiguous",
    "object--sign--ambiguous",
    "object--support--pole-group",
    "object--traffic-sign--ambiguous",
    "object--vehicle--vehicle-group",
)
# The config evaluates these, except the last; here they are void, as their names say.
VOID_V2 = (
    "void--car-mount",
    "void--dynamic",
    "void--ego-vehicle",
    "void--ground",
    "void--static",
    "void--unlabeled",
)
VOID_V1 = ("void--unlabeled",)
# Arrows on the road point the other way in a mirrored image.
FLIP_PAIRS_V2 = (
    ("marking--discrete--arrow--left", "marking--discrete--arrow--right"),
    (
        "marking--discrete--arrow--split-left-or-straight",
        "marking--discrete--arrow--split-right-or-straight",
    ),
)


def register() -> None:
    """Register hiera_mapillary_vistas_{v2,v2_3level,v1}_{train,val}."""
    trees = {name: Hierarchy.load(f"mapillary_vistas_{name}") for name in ("v2", "v2_3level", "v1")}
    for split, folder in SPLITS.items():
        images = f"{ROOT}/{folder}/images"
        for version in ("v2", "v2_3level"):
            tree = trees[version]
            register_builtin_dataset(
                f"hiera_mapillary_vistas_{version}_{split}",
                hierarchy=tree,
                label_map=_label_map(tree, VOID_V2),
                image_root=images,
                sem_seg_root=f"{ROOT}/{folder}/v2.0/labels",
                flip_pairs=[[_node(name, tree) for name in pair] for pair in FLIP_PAIRS_V2],
                unscored_classes=[_node(name, tree) for name in UNSCORED_V2],
                void_classes=list(VOID_V2),
            )
        register_builtin_dataset(
            f"hiera_mapillary_vistas_v1_{split}",
            partial(list_v1, folder),
            hierarchy=trees["v1"],
            label_map=_label_map(trees["v1"], VOID_V1),
            image_root=images,
            sem_seg_root=f"{ROOT}/{folder}/v1.2/labels",
        )


def list_v1(folder: str) -> list[dict]:
    """List a split with labels of version 1.2, in v1.2/labels/ or (older releases) labels/."""
    labels = f"{ROOT}/{folder}/v1.2/labels"
    older = f"{ROOT}/{folder}/labels"
    if not os.path.isdir(expand_root(labels)) and os.path.isdir(expand_root(older)):
        labels = older
    return pair_files(f"{ROOT}/{folder}/images", labels)


def _label_map(tree: Hierarchy, void: tuple[str, ...]) -> dict[int, int | None]:
    """Return {raw id: leaf}; leaves are in the order of the ids, and the void classes come last."""
    label_map: dict[int, int | None] = {leaf: leaf for leaf in range(tree.num_leaves)}
    return label_map | {tree.num_leaves + index: None for index in range(len(void))}


def _node(name: str, tree: Hierarchy) -> str:
    """Return the path of a class: the parts of its name, or the leaf with the whole name."""
    return tree.paths[tree.id(name)] if name in tree.leaf_names else name.replace("--", "/")


register()
