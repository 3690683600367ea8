"""Labels of another size than their image, with resize_labels="nearest"."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from hiera_seg.data.dataset_check import check_dataset
from hiera_seg.data.label_writer import convert_labels
from hiera_seg.errors import DatasetError
from hiera_seg.evaluation import HieraSemSegEvaluator, evaluate_predictions
from hiera_seg.report.samples import SampleReader
from tests.helpers import new_config, plain_mapper

SMALL = np.array([[0, 1, 2], [3, 4, 255]], np.uint8)
LARGE = SMALL.repeat(4, 0).repeat(3, 1)
IMAGE = np.zeros((8, 9, 3), np.uint8)


@pytest.fixture
def registered(register):
    def make(labels=SMALL, image=IMAGE, **options):
        register("toy", {"a": labels}, {"a": image}, **options)
        return DatasetCatalog.get("toy")[0]

    return make


def test_labels_take_the_size_of_their_image(registered, tree):
    record = registered(resize_labels="nearest")
    assert np.array_equal(plain_mapper(tree)(record)["sem_seg"], LARGE)
    # Also if the model has another tree.
    other = type(tree).from_dict(**{**tree.to_dict(), "name": "other"})
    assert np.array_equal(plain_mapper(other)(record)["sem_seg"], LARGE)
    assert np.array_equal(SampleReader(new_config(), "toy")(record)[1], LARGE)
    report = check_dataset("toy")
    assert report.problems == []
    assert report.node_pixels[:5].tolist() == [12] * 5 and report.void_pixels == 12


def test_converted_labels_take_the_size_of_their_image(registered, tmp_path):
    registered(resize_labels="nearest")
    (file,) = convert_labels("toy", str(tmp_path / "ids"))
    assert np.array_equal(np.asarray(Image.open(file)), LARGE)


def test_smaller_images_too(registered, tree):
    record = registered(LARGE, IMAGE[::4, ::3], resize_labels="nearest")
    assert np.array_equal(plain_mapper(tree)(record)["sem_seg"], SMALL)


def test_they_are_evaluated_in_that_size(registered, tmp_path):
    record = registered(resize_labels="nearest")
    evaluator = HieraSemSegEvaluator("toy", distributed=False)
    evaluator.reset()
    labels = np.where(LARGE == 255, 0, LARGE)
    evaluator.process([{**record, "height": 8, "width": 9}], [{"hiera_labels": labels}])
    assert evaluator.evaluate()["sem_seg"]["pACC"] == 100
    for size in (LARGE, SMALL):  # as files, in the size of the images or of the labels
        (tmp_path / "out").mkdir(exist_ok=True)
        Image.fromarray(size).save(tmp_path / "out" / "a.png")
        assert evaluate_predictions("toy", tmp_path / "out")["sem_seg"]["pACC"] == 100


def test_without_it_the_error_names_it(registered, tree):
    record = registered()
    with pytest.raises(
        DatasetError, match=r'a\.png is 9x8.*a\.png is 3x2.*resize_labels="nearest"'
    ):
        plain_mapper(tree)(record)


def test_a_wrong_value_is_an_error(registered):
    with pytest.raises(DatasetError, match="resize_labels is 'cubic'"):
        registered(resize_labels="cubic")
