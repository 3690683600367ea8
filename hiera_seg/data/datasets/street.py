"""CamVid and Cityscapes in one street tree: labels of different detail to train on together.

CamVid's classes are leaves of the tree; Cityscapes says no more than the category, an inner node.
"""

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.data.datasets import camvid, cityscapes
from hiera_seg.hierarchy import Hierarchy

# The classes of Cityscapes by the node of the street tree that their pixels are known to be. Those
# that no benchmark scores are here too: their category is known. What is not listed is void.
CITYSCAPES_NODES = {
    "flat": ("road", "sidewalk", "parking", "rail track"),
    "construction": ("building", "wall", "fence", "guard rail", "bridge", "tunnel"),
    "object": ("pole", "polegroup", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person",),
    "two_wheeler": ("rider", "motorcycle", "bicycle"),
    "vehicle": ("car", "truck", "bus", "caravan", "trailer", "train"),
}


def register() -> None:
    """Register hiera_street_camvid_{train,val,test} and hiera_street_cityscapes_{train,val}."""
    tree = Hierarchy.load("street")
    for split in camvid.SPLITS:
        register_builtin_dataset(
            f"hiera_street_camvid_{split}", hierarchy=tree, **camvid.files_and_labels(split)
        )
    nodes = {name: node for node, names in CITYSCAPES_NODES.items() for name in names}
    for split in cityscapes.SPLITS:
        source, roots = cityscapes.source_and_roots(split, "labelIds")
        register_builtin_dataset(
            f"hiera_street_cityscapes_{split}",
            source,
            hierarchy=tree,
            label_map={name: nodes.get(name) for name in cityscapes.CLASSES},
            raw_classes=list(cityscapes.CLASSES),
            **roots,
        )


register()
