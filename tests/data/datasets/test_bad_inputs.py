"""Every built-in dataset reads its layout, and an error names the file in training and check."""

import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data.dataset_check import check_dataset
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy
from tests.helpers import plain_mapper


def assert_one_line_that_names(files, *words):
    (problem,) = check_dataset(files.name).problems
    mapper = plain_mapper(Hierarchy.from_dict(**MetadataCatalog.get(files.name).hierarchy))
    with pytest.raises(DatasetError) as error:
        for record in DatasetCatalog.get(files.name):
            mapper(record)
    for message in (str(error.value), problem):
        assert "\n" not in message and all(str(word) in message for word in words)


def test_good_files_have_no_problem(made_up):
    report = check_dataset(made_up.name)
    assert report.problems == []
    assert (report.num_images, report.num_pixels) == (2, 2 * 8 * 6)


def test_missing_folder(made_up):
    folder = made_up.root / made_up.layout.image.split("/")[0]
    shutil.rmtree(folder)
    assert_one_line_that_names(made_up, f"dataset {made_up.name!r}: ", f"not found: {folder}/")


def test_label_without_image(made_up):
    made_up.image("a").unlink()
    if made_up.layout.list:
        assert_one_line_that_names(
            made_up, f"1 line of {made_up.root}/", ".txt", " 'a' (images below"
        )
    else:
        assert_one_line_that_names(made_up, made_up.label("a"))


def test_unknown_id(made_up):
    label = np.full((6, 8), made_up.layout.known, np.uint8)
    label[2, 3] = made_up.layout.unknown
    Image.fromarray(label).save(made_up.label("a"))
    assert_one_line_that_names(
        made_up, f"{made_up.label('a')}: raw ids {made_up.layout.unknown} are not in"
    )
