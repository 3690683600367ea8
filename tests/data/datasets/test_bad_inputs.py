"""What is wrong with a dataset is one line that names the file, in training and in the check."""

import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import HieraDatasetMapper
from hiera_seg.data.dataset_check import check_dataset
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy


def training_error(files) -> str:
    """The message of the first error that training on the dataset would meet."""
    meta = MetadataCatalog.get(files.name)
    mapper = HieraDatasetMapper(
        True,
        hierarchy=Hierarchy.from_dict(**meta.hierarchy),
        ignore_label=meta.ignore_label,
        augmentations=[],
        image_format="RGB",
    )
    with pytest.raises(DatasetError) as error:
        for record in DatasetCatalog.get(files.name):
            mapper(record)
    return str(error.value)


def assert_one_line_that_names(files, *words):
    (problem,) = check_dataset(files.name).problems
    for message in (training_error(files), problem):
        assert "\n" not in message
        for word in words:
            assert str(word) in message


def test_good_files_have_no_problem(made_up):
    report = check_dataset(made_up.name)
    assert report.problems == []
    assert (report.num_images, report.num_pixels) == (2, 2 * 8 * 6)


def test_missing_folder(made_up):
    folder = made_up.root / made_up.layout.image.split("/")[0]
    shutil.rmtree(folder)
    assert_one_line_that_names(made_up, f"dataset {made_up.name!r}: ", f"not found: {folder}/")


def test_image_without_label(made_up):
    made_up.label("b").unlink()
    assert_one_line_that_names(made_up, made_up.image("b"))


def test_label_without_image(made_up):
    made_up.image("a").unlink()
    if made_up.layout.list:
        assert_one_line_that_names(
            made_up, f"1 line of {made_up.root}/", ".txt", " a (images below"
        )
    else:
        assert_one_line_that_names(made_up, made_up.label("a"))


def test_wrong_size(made_up):
    Image.new("RGB", (8, 7)).save(made_up.image("b"))
    assert_one_line_that_names(
        made_up,
        f"size differs: image {made_up.image('b')} is 8x7, label {made_up.label('b')} is 8x6",
    )


def test_unknown_id(made_up):
    label = np.full((6, 8), made_up.layout.known, np.uint8)
    label[2, 3] = made_up.layout.unknown
    Image.fromarray(label).save(made_up.label("a"))
    assert_one_line_that_names(
        made_up, f"{made_up.label('a')}: raw ids [{made_up.layout.unknown}] are not in"
    )


def test_damaged_files(made_up):
    made_up.label("a").write_bytes(b"no picture")
    assert_one_line_that_names(made_up, f"cannot read label file {made_up.label('a')}: ")
