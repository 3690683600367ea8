"""Register CamVid and Cityscapes with one street tree, to train on labels of different detail.

The classes of CamVid are leaves of the tree; those of Cityscapes are mapped to their category, an
inner node.
"""

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.data.datasets import camvid, cityscapes
from hiera_seg.hierarchy import Hierarchy

# The classes of Cityscapes by their node in the street tree. Classes that the benchmark does not
# score are listed too, because their category is known. All others are void.
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
        register_builtin_dataset(
            f"hiera_street_cityscapes_{split}",
            hierarchy=tree,
            label_map={name: nodes.get(name) for name in cityscapes.CLASSES},
            raw_classes=list(cityscapes.CLASSES),
            **cityscapes.files(split, "labelIds"),
        )


register()
