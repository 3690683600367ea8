import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from hiera_seg.data import (
    LabelReader,
    register_coco_hierarchical,
    register_hierarchical_dataset,
)
from hiera_seg.data.dataset_check import check_dataset
from hiera_seg.data.label_writer import convert_labels
from hiera_seg.errors import DatasetError, HierarchyError
from hiera_seg.evaluation import HieraSemSegEvaluator
from hiera_seg.hierarchy import Hierarchy
from tests.helpers import plain_mapper

SAMPLES = Path(__file__).parents[3] / "shared/datasets/samples/coco_panoptic"
SIZE = (20, 30)
CATEGORIES = [
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 5, "name": "car", "supercategory": "vehicle"},
    {"id": 3, "name": "bus", "supercategory": "vehicle"},
]


def box(top, left, bottom, right):
    """A mask (H, W) uint8 in Fortran order with one rectangle."""
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[top:bottom, left:right] = 1
    return mask


def compressed(mask):
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def uncompressed(mask):
    flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
    ends = np.flatnonzero(np.diff(flat.astype(int)))
    counts = np.diff(np.concatenate([[0], ends])).tolist()
    return {"size": list(mask.shape), "counts": ([0] if mask[0, 0] else []) + counts}


RING = box(2, 2, 18, 28) - box(6, 8, 12, 20)  # a region with a hole
ANNOTATIONS = [
    {"id": 1, "image_id": 7, "category_id": 5, "segmentation": compressed(box(8, 9, 10, 12))},
    {"id": 2, "image_id": 7, "category_id": 3, "segmentation": [[1, 1, 14.5, 2, 9, 17.2],
                                                               [20, 3, 28, 3, 28, 9, 20, 9]]},
    {"id": 3, "image_id": 7, "category_id": 1, "iscrowd": 1, "segmentation": uncompressed(RING)},
]  # fmt: skip


@pytest.fixture
def coco(tmp_path):
    """Writes instances.json and its images; arguments replace parts of the file."""

    def write(**changes):
        content = {
            "images": [
                {"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
                {"id": 8, "file_name": "val/b.png", "height": 4, "width": 6},
            ],
            "annotations": ANNOTATIONS,
            "categories": CATEGORIES,
            **changes,
        }
        for path, size in (("a.png", SIZE), ("val/b.png", (4, 6))):
            (tmp_path / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / "images" / path)
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path, tmp_path / "images"

    return write


def labels_of(name):
    reader = LabelReader.from_metadata(MetadataCatalog.get(name))
    return [reader(record["sem_seg_file_name"]) for record in DatasetCatalog.get(name)]


def by_pycocotools(path, image_id, leaf_of, fill=255):
    """The label map that pycocotools' own decoding gives."""
    coco = COCO(str(path))
    masks = [(coco.annToMask(a), leaf_of[a["category_id"]])
             for a in coco.loadAnns(coco.getAnnIds(image_id))]  # fmt: skip
    image = coco.loadImgs(image_id)[0]
    labels = np.full((image["height"], image["width"]), fill, np.int64)
    for mask, leaf in sorted(masks, key=lambda entry: -int(entry[0].sum())):
        labels[mask == 1] = leaf
    return labels


def test_label_maps_equal_pycocotools(coco):
    path, images = coco()
    register_coco_hierarchical("toy", path, images)
    tree = Hierarchy.from_dict(**MetadataCatalog.get("toy").hierarchy)
    assert tree.paths[:3] == ("person/person", "vehicle/car", "vehicle/bus")
    assert MetadataCatalog.get("toy").stuff_classes == ["person", "car", "bus"]
    first, second = labels_of("toy")
    assert np.array_equal(first, by_pycocotools(path, 7, {1: 0, 5: 1, 3: 2}))
    assert (first == 1).sum() == 6 and {0, 1, 2, 255} == set(np.unique(first))
    assert second.shape == (4, 6) and (second == 255).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_shortened_encoding_is_refused(coco, seed):
    """pycocotools decodes it, with what was in memory before."""
    rng = np.random.default_rng(seed)
    noise = rng.random(SIZE).repeat(5, seed % 2)[: SIZE[0], : SIZE[1]]  # short and long runs
    encoded = compressed((noise < 0.3).astype(np.uint8))
    path, images = coco(**one(segmentation=encoded))
    register_coco_hierarchical("whole", path, images)
    assert np.array_equal(labels_of("whole")[0], by_pycocotools(path, 7, {5: 1}))
    for length in range(1, len(encoded["counts"])):
        path, images = coco(**one(segmentation=encoded | {"counts": encoded["counts"][:length]}))
        register_coco_hierarchical(f"short_{length}", path, images)
        with pytest.raises(DatasetError, match=r"instances\.json.*annotation 1"):
            labels_of(f"short_{length}")


def test_a_byte_order_mark_is_no_content(coco):
    path, images = coco()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    register_coco_hierarchical("toy", path, images)
    assert len(labels_of("toy")) == 2


def test_every_reader_of_labels_sees_them(coco):
    path, images = coco()
    register_coco_hierarchical("toy", path, images, background="ground")
    expected = by_pycocotools(path, 7, {1: 0, 5: 1, 3: 2}, fill=3)
    tree = Hierarchy.from_dict(**MetadataCatalog.get("toy").hierarchy)
    assert tree.leaf_names == ("person", "car", "bus", "ground")
    records = pickle.loads(pickle.dumps(copy.deepcopy(DatasetCatalog.get("toy"))))
    mapper = plain_mapper(tree)
    assert np.array_equal(mapper(records[0])["sem_seg"].numpy(), expected)
    report = check_dataset("toy")
    assert not report.problems and report.num_images == 2
    assert report.node_pixels[3] == (expected == 3).sum() + 24
    evaluator = HieraSemSegEvaluator("toy", distributed=False)
    evaluator.check_files()
    evaluator.process(records[:1], [{"hiera_labels": expected}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


def test_files_written_once_are_equal(coco, tmp_path):
    register_coco_hierarchical("toy", *coco())
    out = tmp_path / "out"
    assert len(list(convert_labels("toy", str(out)))) == 2
    assert np.array_equal(np.asarray(Image.open(out / "a.png")), labels_of("toy")[0])
    assert (out / "val/b.png").is_file()


def test_a_given_tree_and_its_background(coco):
    tree = {"moving": {"person": None, "vehicle": ["bus", "car"]}, "still": ["ground"]}
    path, images = coco()
    register_coco_hierarchical("toy", path, images, hierarchy=tree, background="ground")
    h = Hierarchy.from_dict(tree)
    leaf_of = {1: h["person"], 5: h["car"], 3: h["bus"]}
    assert np.array_equal(labels_of("toy")[0], by_pycocotools(path, 7, leaf_of, h["ground"]))
    with pytest.raises(DatasetError, match=r"instances\.json.*'car'.*'bus'"):
        register_coco_hierarchical("other", path, images, hierarchy=["person", "x"])
    with pytest.raises(DatasetError, match="'vehicle'.*'moving/vehicle'"):
        register_coco_hierarchical("other", path, images, hierarchy=tree, background="vehicle")
    named = [{"id": category["id"], "name": category["name"]} for category in CATEGORIES]
    path, images = coco(categories=named)
    tree = {"person": ["person"], "vehicle": ["car", "bus"]}
    register_coco_hierarchical("groups", path, images, hierarchy=tree)
    assert set(np.unique(labels_of("groups")[0])) <= {0, 1, 2, 255}  # leaves
    tree = {"real": ["person", "car", "bus"], "toy": ["car"]}
    with pytest.raises(DatasetError, match=r"instances\.json: category 5: .*'real/car', 'toy/car'"):
        register_coco_hierarchical("other", path, images, hierarchy=tree)


@pytest.mark.parametrize(
    "categories, paths, node_of_0",
    [
        # LVIS has no supercategories, CVAT writes "", Label Studio counts from 0.
        ([{"id": 0, "name": "a"}, {"id": 1, "name": "b/c", "supercategory": ""}], ("a", "b-c"), 0),
        # labelme's name of void
        ([{"id": 0, "name": "__ignore__"}, {"id": 1, "name": "x"}], ("x",), 255),
        # Roboflow's root is a category itself.
        (
            [{"id": 0, "name": "top", "supercategory": "none"},
             {"id": 1, "name": "x", "supercategory": "top"}],
            ("top/x", "top"),
            1,
        ),
    ],
)  # fmt: skip
def test_trees_of_other_tools(coco, categories, paths, node_of_0):
    annotation = {"id": 1, "image_id": 7, "category_id": 0, "segmentation": compressed(RING)}
    register_coco_hierarchical("toy", *coco(categories=categories, annotations=[annotation]))
    tree = Hierarchy.from_dict(**MetadataCatalog.get("toy").hierarchy)
    assert tree.paths == paths
    top = labels_of("toy")[0]
    assert (top[RING == 1] == node_of_0).all()


def test_more_than_255_categories(coco):
    categories = [{"id": i, "name": f"c{i}"} for i in range(300)]
    annotation = {"id": 1, "image_id": 7, "category_id": 299, "segmentation": compressed(RING)}
    register_coco_hierarchical("toy", *coco(categories=categories, annotations=[annotation]))
    assert set(np.unique(labels_of("toy")[0])) == {299, 65535}


def test_image_names_of_lvis_and_label_studio(coco):
    images = [
        {"id": 7, "coco_url": "http://images.cocodataset.org/val/b.png", "height": 4, "width": 6},
        {"id": 8, "file_name": "..\\upload\\1\\a.png", "height": 20, "width": 30},
    ]
    _, root = args = coco(images=images, annotations=[])
    register_coco_hierarchical("toy", *args)
    found = [Path(record["file_name"]) for record in DatasetCatalog.get("toy")]
    assert found == [root / "val/b.png", root / "a.png"]


def one(**changes):
    return {"annotations": [{**ANNOTATIONS[0], **changes}]}


def two_images(number, file_name):
    images = [(7, "a.png"), (number, file_name)]
    return {"images": [{"id": i, "file_name": f, "height": 20, "width": 30} for i, f in images]}


@pytest.mark.parametrize(
    "changes, named",
    [
        (one(segmentation={"size": [20, 30], "counts": [5, 5]}), "annotation 1.*10 pixels"),
        (one(segmentation={"size": [9, 30], "counts": "abc"}), "annotation 1.*30x9"),
        (one(segmentation={"size": [20, 30], "counts": "abc"}), "annotation 1"),
        (one(segmentation={"size": [20, 30], "counts": "0"}), "annotation 1.* 0 pixels"),
        (one(segmentation={"size": [20, 30], "counts": ""}), "annotation 1.* 0 pixels"),
        (one(segmentation=[[1, 1, 2, 2, 3, 3, 4]]), "annotation 1.*polygon"),
        (one(segmentation=[[1, 1, 9, float("nan"), 9, 9]]), "annotation 1.*polygon"),
        (one(segmentation=[1, 1, 9, 1, 9, 9]), "annotation 1.*polygon"),
        (one(segmentation=[[[1, 1], [9, 1], [9, 9]]]), "annotation 1.*polygon"),
        (one(segmentation=[[1, 1], [9, 1], [9, 9]]), "annotation 1.*polygon"),
        (one(category_id=9), "annotation 1.*category_id 9"),
        (one(image_id=9), "annotation 1.*image_id 9"),
        (one(segmentation=[], bbox=[1, 1, 4, 4]), "1 of 1 annotations"),
        ({"annotations": [{"id": 4, "segments_info": []}]}, "panoptic2detection_coco_format"),
        ({"categories": None}, "categories"),
        ({"categories": [{"id": 1}]}, "'name'"),
        ({"categories": [*CATEGORIES, {"id": 1, "name": "x"}]}, "id 1"),
        (
            {"categories": [{"id": 1, "name": "x", "supercategory": "y"},
                            {"id": 2, "name": "y", "supercategory": "x"}]},
            "lead back",
        ),
        ({"images": [{"id": 7, "file_name": "a.png", "width": 30}]}, "'height'"),
        (two_images(7, "val/b.png"), "two images of id 7"),
        (two_images(8, "./a.png"), "images 7 and 8 .*a.png"),
    ],
)  # fmt: skip
def test_bad_files_are_named(coco, changes, named):
    path, images = coco(**changes)
    with pytest.raises((DatasetError, HierarchyError), match=rf"instances\.json.*{named}"):
        register_coco_hierarchical("toy", path, images)
        labels_of("toy")


def test_a_coco_file_is_recognized_where_another_json_is_expected(coco, tmp_path):
    path, images = coco()
    register_hierarchical_dataset("toy", path, hierarchy=["person"], image_root=images)
    with pytest.raises(
        DatasetError, match=r"instances\.json is a COCO.*register_coco_hierarchical"
    ):
        DatasetCatalog.get("toy")
    path.write_text("[]")
    with pytest.raises(DatasetError, match=r"instances\.json.*register_hierarchical_dataset"):
        register_coco_hierarchical("other", path, images)
    with pytest.raises(DatasetError, match=r"no\.json"):
        register_coco_hierarchical("other", tmp_path / "no.json", images)
    with pytest.raises(DatasetError, match="not found.*no_folder"):
        register_coco_hierarchical("third", coco()[0], tmp_path / "no_folder")
        DatasetCatalog.get("third")


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs ../shared/datasets/samples")
def test_regions_of_real_panoptic_images(tmp_path):
    """Segments of COCO's samples, written as instances, give back the panoptic image."""
    content = json.loads((SAMPLES / "images_info_examples.json").read_text())
    categories = [category["id"] for category in content["categories"]]
    rng, annotations, segments = np.random.default_rng(0), [], {}
    for image in content["images"]:
        file = SAMPLES / "panoptic_examples" / f"{Path(image['file_name']).stem}.png"
        rgb = np.asarray(Image.open(file).convert("RGB")).astype(np.int64)
        segments[image["id"]] = rgb @ (1, 256, 65536)
        for number in np.unique(segments[image["id"]])[1:].tolist():  # 0 is void
            mask = segments[image["id"]] == number
            encode = compressed if number % 2 else uncompressed
            annotations.append(
                {"id": number, "image_id": image["id"], "category_id": int(rng.choice(categories)),
                 "segmentation": encode(mask.astype(np.uint8))}
            )  # fmt: skip
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({**content, "annotations": annotations}))
    register_coco_hierarchical("toy", path, SAMPLES / "input_images")
    assert len(annotations) > 10
    for record in DatasetCatalog.get("toy"):
        labels = LabelReader.from_metadata(MetadataCatalog.get("toy"))(record["sem_seg_file_name"])
        expected = np.full(labels.shape, 255)
        for annotation in annotations:
            if annotation["image_id"] == record["image_id"]:
                mask = segments[record["image_id"]] == annotation["id"]
                expected[mask] = categories.index(annotation["category_id"])
        assert np.array_equal(labels, expected)
    assert check_dataset("toy").problems == []
