import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from hiera_seg.data import LabelReader, register_hierarchical_dataset
from hiera_seg.data.label_writer import convert_labels
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy

MAP = {5: "grass", 6: "body", 7: None, 8: "head"}


@pytest.fixture
def toy(register):
    labels = {"x/a": np.array([[5, 6], [7, 8]], np.uint8), "b": np.array([[5, 5]], np.uint8)}
    return register("toy", labels, label_map=MAP)


def files_below(folder):
    found = (os.path.join(at, file) for at, _, files in os.walk(folder) for file in files)
    return sorted(os.path.relpath(path, folder) for path in found)


def test_files_hold_node_ids_in_the_same_places(tree, toy, tmp_path):
    out = tmp_path / "ids"
    written = list(convert_labels("toy", str(out)))
    assert files_below(out) == ["b.png", "x/a.png"]
    assert sorted(written) == [str(out / "b.png"), str(out / "x/a.png")]
    image = Image.open(out / "x/a.png")
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[1, tree["body"]], [255, 4]]
    # What comes out is a dataset of node ids, which needs no map.
    register_hierarchical_dataset("ids", hierarchy=tree, image_root=toy[0], sem_seg_root=out)
    reader, original = LabelReader(tree), LabelReader(tree, {5: 1, 6: tree["body"], 7: 255, 8: 4})
    pairs = zip(DatasetCatalog.get("ids"), DatasetCatalog.get("toy"), strict=True)
    for new, old in pairs:
        paths = new["sem_seg_file_name"], old["sem_seg_file_name"]
        assert np.array_equal(reader(paths[0]), original(paths[1]))


def test_labels_on_inner_nodes_become_void_for_stock_evaluators(toy, tmp_path):
    list(convert_labels("toy", str(tmp_path / "ids"), leaves=True))
    assert np.asarray(Image.open(tmp_path / "ids/x/a.png")).tolist() == [[1, 255], [255, 4]]


def test_wide_trees_take_16_bits(register, tmp_path):
    tree = Hierarchy.from_dict([f"n{i}" for i in range(300)])
    labels = {"a": np.array([[0, 7, 9]], np.uint8)}
    register("wide", labels, hierarchy=tree, label_map={0: 299, 7: None, 9: 255})
    list(convert_labels("wide", str(tmp_path / "ids")))
    read = np.asarray(Image.open(tmp_path / "ids/a.png"))
    assert read.dtype == np.uint16 and read.tolist() == [[299, 65535, 255]]


def test_without_a_root_the_common_folder_counts(tree, toy, tmp_path):
    register_hierarchical_dataset(
        "listed", lambda: DatasetCatalog.get("toy"), hierarchy=tree, label_map=MAP
    )
    list(convert_labels("listed", str(tmp_path / "ids")))
    assert files_below(tmp_path / "ids") == ["b.png", "x/a.png"]


def test_originals_are_not_overwritten(tree, toy, tmp_path):
    with pytest.raises(DatasetError, match="holds the original labels of 'toy'"):
        list(convert_labels("toy", str(toy[1])))
    assert np.asarray(Image.open(toy[1] / "b.png")).tolist() == [[5, 5]]
    for path in Path(toy[0]).rglob("*.jpg"):
        path.rename(path.with_suffix(".png"))
    pictures = {path: path.read_bytes() for path in Path(toy[0]).rglob("*.png")}
    register_hierarchical_dataset("drawn", hierarchy=tree, image_root=toy[0], sem_seg_root=toy[1])
    with pytest.raises(DatasetError, match="holds the original images of 'drawn'"):
        list(convert_labels("drawn", str(toy[0])))
    assert pictures
    assert all(path.read_bytes() == content for path, content in pictures.items())
    register_hierarchical_dataset("odd", lambda: [], hierarchy=tree, ignore_label=-1)
    with pytest.raises(DatasetError, match="ignore label -1 does not fit a label file"):
        list(convert_labels("odd", str(tmp_path / "ids")))
    register_hierarchical_dataset("bare", hierarchy=tree, image_root=toy[0])
    with pytest.raises(DatasetError, match="'bare' lists no label files"):
        list(convert_labels("bare", str(tmp_path / "ids")))


def test_labels_elsewhere_than_their_root_stay_untouched(tree, toy, tmp_path):
    """As Mapillary's of version 1.2, which may lie in an older place."""
    for root, out in ((tmp_path / "nowhere/x", "ids/x"), (tmp_path, "ids")):
        name = f"moved{out}"
        register_hierarchical_dataset(
            name, lambda: DatasetCatalog.get("toy"), hierarchy=tree, label_map=MAP,
            sem_seg_root=root,
        )  # fmt: skip
        written = list(convert_labels(name, str(tmp_path / out)))
        assert all(path.startswith(str(tmp_path / out)) for path in written)
    assert files_below(tmp_path / "ids/x") == ["b.png", "x/a.png"]
    assert files_below(tmp_path / "ids/labels") == ["b.png", "x/a.png"]
    assert np.asarray(Image.open(toy[1] / "b.png")).tolist() == [[5, 5]]
    register_hierarchical_dataset(
        "deep", lambda: DatasetCatalog.get("toy"), hierarchy=tree, label_map=MAP,
        sem_seg_root=tmp_path,
    )  # fmt: skip
    with pytest.raises(DatasetError, match="holds the original labels of 'deep'"):
        list(convert_labels("deep", str(tmp_path)))
    assert np.asarray(Image.open(toy[1] / "b.png")).tolist() == [[5, 5]]


def test_two_labels_for_one_place_are_refused(tree, toy, tmp_path):
    Image.open(toy[1] / "b.png").save(toy[1] / "b.bmp")
    records = [
        {"file_name": "b.jpg", "sem_seg_file_name": f"{toy[1]}/b.{s}"} for s in ("png", "bmp")
    ]
    register_hierarchical_dataset("two", lambda: records, hierarchy=tree, label_map=MAP)
    with pytest.raises(DatasetError, match=r"b\.png and .*b\.bmp would both be written to"):
        list(convert_labels("two", str(tmp_path / "ids")))
    assert not (tmp_path / "ids").exists()
    register_hierarchical_dataset("same", lambda: records[:1] * 2, hierarchy=tree, label_map=MAP)
    assert len(list(convert_labels("same", str(tmp_path / "ids")))) == 1


def test_detectron2s_evaluator_reads_converted_labels(tree, toy, tmp_path):
    import torch
    from detectron2.evaluation import SemSegEvaluator

    list(convert_labels("toy", str(tmp_path / "ids"), leaves=True))
    register_hierarchical_dataset(
        "ids", hierarchy=tree, image_root=toy[0], sem_seg_root=tmp_path / "ids"
    )
    evaluator = SemSegEvaluator("ids", distributed=False)
    evaluator.reset()
    for record in DatasetCatalog.get("ids"):
        labels = torch.from_numpy(LabelReader(tree)(record["sem_seg_file_name"]))
        scores = torch.nn.functional.one_hot(labels.clamp(max=4), 5).permute(2, 0, 1)
        evaluator.process([record], [{"sem_seg": scores}])
    results = evaluator.evaluate()["sem_seg"]
    assert results["pACC"] == 100 and results["IoU-grass"] == 100
