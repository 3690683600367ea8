import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from scipy.io import savemat

from hiera_seg.data import (
    LabelReader,
    pair_files,
    read_label_file,
    register_hierarchical_dataset,
)
from hiera_seg.data.array_files import read_array_file
from hiera_seg.data.dataset_check import check_dataset
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy
from tests.helpers import plain_mapper

VALUES = np.array([[0, 3, 7], [255, 1, 2]])


@pytest.mark.parametrize("kind", ["npy", "mat"])
@pytest.mark.parametrize("dtype, highest", [("int64", 255), ("uint8", 255), ("uint16", 60000)])
def test_values_are_read_as_stored(tmp_path, kind, dtype, highest):
    values = np.where(VALUES == 255, highest, VALUES).astype(dtype)
    path = str(tmp_path / f"x.{kind}")
    np.save(path, values) if kind == "npy" else savemat(path, {"seg": values, "name": "x"})
    read = read_label_file(path)
    assert read.dtype == ("uint8" if highest == 255 else "uint16")
    assert np.array_equal(read, values)


def test_a_number_beside_the_label_map_is_none(tmp_path):
    savemat(tmp_path / "x.mat", {"seg": VALUES.astype(float), "version": 3})
    assert np.array_equal(read_label_file(str(tmp_path / "x.mat")), VALUES)


@pytest.mark.parametrize("highest, void", [(254, 255), (255, 65535)])
def test_minus_one_is_read_as_in_images(tmp_path, highest, void):
    np.save(tmp_path / "x.npy", np.array([[-1, highest]]))
    assert read_array_file(str(tmp_path / "x.npy")).tolist() == [[void, highest]]


def test_minus_one_is_not_the_class_of_id_255(tmp_path, tree):
    np.save(tmp_path / "x.npy", np.array([[-1, 3]]))
    label_map = {3: "road", 255: "head", 65535: None}
    assert LabelReader(tree, label_map)(str(tmp_path / "x.npy")).tolist() == [[255, tree["road"]]]
    wide = Hierarchy.from_dict([f"c{i}" for i in range(300)])
    assert LabelReader(wide, None, 65535)(str(tmp_path / "x.npy")).tolist() == [[65535, 3]]


def test_ids_are_not_read_as_colors(tmp_path, tree):
    np.save(tmp_path / "x.npy", np.array([[0, 1]]))
    with pytest.raises(DatasetError, match=r"x\.npy.*ids.*colours"):
        LabelReader(tree, {"#ff0000": "road", "#00ff00": "head"})(str(tmp_path / "x.npy"))


def test_bad_files_are_named(tmp_path):
    path = str(tmp_path / "x.npy")
    for array in (VALUES / 2, VALUES[0], np.array([[{}]])):
        np.save(path, array)
        with pytest.raises(DatasetError, match=r"x\.npy"):
            read_label_file(path)
    savemat(tmp_path / "x.mat", {"a": VALUES, "b": VALUES})
    with pytest.raises(DatasetError, match=r"x\.mat.*a: int64.*b: int64"):
        read_label_file(str(tmp_path / "x.mat"))
    newest = b"MATLAB 7.3 MAT-file".ljust(124, b"\0") + b"\0\2IM" + bytes(384) + b"\x89HDF\r\n"
    (tmp_path / "x.mat").write_bytes(newest)
    with pytest.raises(DatasetError, match=r"x\.mat.*7\.3.*-v7"):
        read_label_file(str(tmp_path / "x.mat"))
    (tmp_path / "x.mat").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"x\.mat"):
        read_label_file(str(tmp_path / "x.mat"))
    with pytest.raises(DatasetError, match=r"not found.*y\.npy"):
        read_label_file(str(tmp_path / "y.npy"))


def test_arrays_pair_with_images(folders, tmp_path):
    images, labels = folders({"a": VALUES.astype(np.uint8)})
    (labels / "a.png").unlink()
    np.save(labels / "a.npy", VALUES)
    assert pair_files(images, labels) == [
        {"file_name": str(images / "a.png"), "sem_seg_file_name": str(labels / "a.npy")}
    ]


def test_a_variable_of_a_mat_file_is_named(tmp_path, tree):
    path = str(tmp_path / "x.mat")
    other = {"scores": VALUES / 7, "edges": VALUES.T}
    savemat(path, {"GTcls": {"Segmentation": VALUES, "Size": 3}, "b": VALUES % 3.0, **other})
    assert np.array_equal(read_label_file(path, variable="GTcls.Segmentation"), VALUES)
    assert np.array_equal(read_label_file(path, variable="b"), VALUES % 3)  # whole floats
    for variable in ("GTcls.segmentation", "scores"):
        with pytest.raises(DatasetError) as error:
            read_label_file(path, variable=variable)
        for word in ("x.mat", variable, "GTcls.Segmentation", "(2, 3)", "scores", "edges"):
            assert word in str(error.value)
    with pytest.raises(DatasetError, match="label_variable"):
        read_label_file(path)


def test_a_dataset_names_the_variable(tree, folders, tmp_path):
    images, labels = folders({"a": VALUES.astype(np.uint8)})
    (labels / "a.png").unlink()
    savemat(labels / "a.mat", {"seg": VALUES, "instances": VALUES + 1})
    register_hierarchical_dataset(
        "toy", image_root=images, sem_seg_root=labels, hierarchy=tree, label_variable="seg"
    )
    (record,) = DatasetCatalog.get("toy")
    meta = MetadataCatalog.get("toy")
    reader = LabelReader.from_metadata(meta)
    assert np.array_equal(reader(record["sem_seg_file_name"]), VALUES)
    mapper = plain_mapper(tree)
    assert np.array_equal(mapper(record)["sem_seg"], VALUES)
    assert check_dataset("toy").problems == []
