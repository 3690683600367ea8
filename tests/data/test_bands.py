"""Images of many bands: reading, training, evaluation, prediction and overlays."""

import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from hiera_seg.config import check_config
from hiera_seg.data import HieraDatasetMapper, read_image_file, register_hierarchical_dataset
from hiera_seg.data.augmentations import build_augmentations
from hiera_seg.data.bands import as_rgb
from hiera_seg.data.dataset_check import check_dataset
from hiera_seg.data.image_files import read_size
from hiera_seg.data.images import ImageReader
from hiera_seg.diagnostics.dry_run import dry_run
from hiera_seg.engine import HieraTrainer
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.inference import HieraPredictor
from hiera_seg.inference.deployed import DeployedSegmentor
from hiera_seg.inference.predictions import PredictionWriter
from hiera_seg.report.samples import SampleReader
from tests.helpers import new_config
from tests.tiny_street import SMALL_NETWORK, STREET

tifffile = pytest.importorskip("tifffile")

# Values that no 8 bits hold; shapes that tell the axes apart.
BANDS = np.random.default_rng(0).integers(0, 4000, (6, 7, 5)).astype(np.uint16)


def write(path, values, layout="contig"):
    first = np.moveaxis(values, 2, 0)
    if path.suffix == ".npy":
        np.save(path, values if layout == "contig" else first)
    elif layout == "pages":
        tifffile.imwrite(path, first, photometric="minisblack")
    else:
        values = values if layout == "contig" else first
        tifffile.imwrite(
            path, values, photometric="minisblack", planarconfig=layout, compression="zlib"
        )
    return str(path)


@pytest.mark.parametrize("kind", ["npy", "tif"])
@pytest.mark.parametrize("layout", ["contig", "separate", "pages"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_all_values_are_read(tmp_path, kind, layout, dtype):
    values = BANDS.astype(dtype)
    path = write(tmp_path / f"x.{kind}", values, layout)
    read = read_image_file(path, "BANDS")
    assert read.dtype == np.float32 and np.array_equal(read, values)
    assert np.array_equal(read_image_file(path, "BANDS:4,0,4"), values[..., [4, 0, 4]])


def test_the_expected_number_tells_the_axes_apart(tmp_path):
    path = write(tmp_path / "x.npy", BANDS)  # (6, 7, 5)
    assert ImageReader("BANDS", num_channels=6)(path).shape == (7, 5, 6)
    wide = write(tmp_path / "y.npy", BANDS.swapaxes(0, 2))  # (5, 7, 6)
    assert ImageReader("BANDS", num_channels=6)(wide).shape == (5, 7, 6)


def test_missing_values_and_a_range(tmp_path):
    values = BANDS.astype(np.float32)
    values[0, 0, 0], values[0, 1, 0] = np.nan, np.inf
    path = write(tmp_path / "x.npy", values)
    assert read_image_file(path, "BANDS")[0, :2, 0].tolist() == [0, 0]
    values[0, :2, 0] = 0
    scaled = read_image_file(path, "BANDS", value_range=(1000, 2000))
    np.testing.assert_allclose(scaled, ((values - 1000) * 0.255).clip(0, 255), rtol=1e-5)
    values[0, 0, 0], values[0, 1, 0] = np.nan, np.inf
    scaled = read_image_file(write(tmp_path / "x.npy", values), "BANDS", value_range=(-50, 2000))
    assert scaled[0, :2, 0].tolist() == [0, 0] and scaled[1, 1, 1] > 0


def test_other_files_have_bands_too(tmp_path):
    rgba = BANDS[..., :4].astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    assert np.array_equal(read_image_file(str(tmp_path / "x.png"), "BANDS"), rgba)
    Image.fromarray(BANDS[..., 0]).save(tmp_path / "y.png")
    assert np.array_equal(read_image_file(str(tmp_path / "y.png"), "BANDS"), BANDS[..., :1])


def test_an_orientation_is_applied(tmp_path):
    path = str(tmp_path / "x.tif")
    tags = [(274, "H", 1, 6, True)]
    tifffile.imwrite(path, BANDS, photometric="minisblack", planarconfig="contig", extratags=tags)
    assert np.array_equal(read_image_file(path, "BANDS"), np.rot90(BANDS, -1))
    assert np.array_equal(read_image_file(path, "BANDS", exif="ignore"), BANDS)
    assert read_size(path, "apply") == ((7, 6), 6)


def test_colours_of_npy_files(tmp_path):
    rgb = BANDS[..., :3].astype(np.uint8)
    np.save(tmp_path / "x.npy", rgb)
    assert np.array_equal(read_image_file(str(tmp_path / "x.npy")), rgb)
    assert np.array_equal(read_image_file(str(tmp_path / "x.npy"), "BGR"), rgb[..., ::-1])


@pytest.mark.parametrize("layout", ["contig", "separate", "pages"])
def test_colours_and_a_fourth_band(tmp_path, layout):
    path = write(tmp_path / "x.tif", BANDS[..., :4], layout)
    stored = (BANDS[..., :3] // 256).astype(np.uint8)
    assert np.array_equal(read_image_file(path), stored)
    assert np.array_equal(read_image_file(path, "BANDS:3"), BANDS[..., 3:4])


def test_bad_files_are_named(tmp_path):
    path = write(tmp_path / "x.tif", BANDS)
    with pytest.raises(DatasetError, match=r"x\.tif has 5 bands.*'BANDS:0,5' names band 5"):
        read_image_file(path, "BANDS:0,5")
    with pytest.raises(DatasetError, match=r"x\.tif has 5 bands.*MODEL.PIXEL_MEAN has 4 numbers"):
        ImageReader("BANDS", num_channels=4)(path)
    with pytest.raises(DatasetError, match=r"x\.tif has 5 bands; set INPUT.FORMAT to 'BANDS'"):
        read_image_file(path)
    two = tmp_path / "two.tif"
    tifffile.imwrite(two, BANDS[None, ..., :3].repeat(2, 0), photometric="rgb")
    with pytest.raises(DatasetError, match=r"two\.tif.*shape \(2, 6, 7, 3\)"):
        read_image_file(str(two))
    (tmp_path / "x.tif").write_bytes(b"II*\0 nothing")
    np.save(tmp_path / "x.npy", np.array([["a"]]))
    for name in ("x.tif", "x.npy", "none.tif"):
        with pytest.raises(DatasetError, match=name):
            read_image_file(str(tmp_path / name), "BANDS")


@pytest.mark.parametrize(
    "key, value",
    [
        ("INPUT.FORMAT", "bands"), ("INPUT.FORMAT", "BANDS:"), ("INPUT.FORMAT", "BANDS:1,-2"),
        ("MODEL.PIXEL_MEAN", [0.0] * 5), ("INPUT.DISPLAY_BANDS", [0, 1]),
        ("INPUT.DISPLAY_BANDS", [0, 1, 3]),
    ],
)  # fmt: skip
def test_configs_that_do_not_fit_are_errors(key, value):
    bands = ["INPUT.FORMAT", "BANDS:0,3,2", "MODEL.META_ARCHITECTURE", "HieraSegmentor"]
    cfg = new_config(*bands, key, value)
    with pytest.raises(ConfigError, match=key):
        check_config(cfg)


def test_colour_augmentations_are_skipped(caplog):
    cfg = new_config()
    cfg.INPUT.FORMAT, cfg.INPUT.COLOR_AUG_SSD, cfg.INPUT.RANDOM_FLIP = "BANDS", True, "none"
    with caplog.at_level(logging.INFO, "hiera_seg"):
        assert len(build_augmentations(cfg, True, STREET)) == 1
    assert [record.message for record in caplog.records if "COLOR_AUG_SSD" in record.message]


def test_three_bands_are_shown():
    image = np.tile(np.arange(101, dtype=np.float32)[None, :, None], (3, 1, 5)) * [1, 9, 0, 2, 3]
    image[..., 2] = 7
    shown = as_rgb(image, "BANDS", [3, 1, 2])
    expected = ((np.arange(101) - 2) * 255 / 96).clip(0, 255).round()
    assert shown.dtype == np.uint8
    for channel in (0, 1):  # each is stretched by itself
        assert np.abs(shown[0, :, channel] - expected).max() <= 1
    assert not shown[..., 2].any()  # a constant band
    assert np.array_equal(as_rgb(image, "BANDS:9,1,5,2,7"), as_rgb(image, "BANDS", [0, 1, 2]))
    grey = as_rgb(image[..., :2], "BANDS")
    assert np.array_equal(grey[..., 0], grey[..., 2]) and grey.any()


@pytest.fixture(params=["npy", "tif"])
def cfg(request, tmp_path):
    """A config of a registered dataset whose labels only the fourth band shows."""
    rng = np.random.default_rng(1)
    for folder in ("images", "labels", "run"):
        (tmp_path / folder).mkdir()
    for index in range(3):
        label = rng.integers(0, 4, (5, 6)).repeat(8, 0).repeat(8, 1)
        image = rng.integers(0, 4000, (40, 48, 5))
        image[..., 3] = 900 * label + rng.integers(0, 300, label.shape)
        layout = "separate" if index else "contig"
        write(tmp_path / "images" / f"{index}.{request.param}", image.astype(np.uint16), layout)
        Image.fromarray(label.astype(np.uint8)).save(tmp_path / "labels" / f"{index}.png")
    register_hierarchical_dataset(
        "toy", image_root=tmp_path / "images", sem_seg_root=tmp_path / "labels", hierarchy=STREET
    )
    cfg = new_config(*SMALL_NETWORK)
    cfg.INPUT.FORMAT = "BANDS"
    cfg.INPUT.DISPLAY_BANDS = [3, 3, 1]
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [2000.0] * 5, [1000.0] * 5
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("toy",)
    cfg.SOLVER.MAX_ITER = 2
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    return cfg


def test_bands_are_trained_evaluated_and_predicted(cfg, tmp_path):
    assert "5x32x32" in dry_run(cfg)
    report = check_dataset("toy")
    assert report.problems == [] and report.warnings == []
    assert check_dataset("toy", quick=True).problems == []
    (kind,) = report.image_values
    assert kind == "5-band uint16"

    trainer = HieraTrainer(cfg)
    before = trainer.model.backbone.stem.conv1.weight.clone()
    assert before.shape[1] == 5
    trainer.train()
    assert not torch.equal(trainer.model.backbone.stem.conv1.weight, before)
    results = HieraTrainer.test(cfg, trainer.model)
    assert 0 <= results["sem_seg"]["pACC"] <= 100

    record = DatasetCatalog.get("toy")[1]
    predictor = HieraPredictor(cfg, trainer.model)
    labels = predictor(record["file_name"])["labels"]
    assert labels.shape == (40, 48)
    array = read_image_file(record["file_name"], "BANDS")
    assert torch.equal(predictor(array)["labels"], labels)
    with pytest.raises(ValueError, match=r"\(H, W, 5\) of bands"):
        predictor(np.zeros((40, 48, 3), np.uint8))
    scaled = cfg.clone()
    scaled.INPUT.IMAGE_RANGE = [500, 3000]
    predict_scaled = HieraPredictor(scaled, trainer.model)
    scores = predict_scaled(record["file_name"])["sem_seg"]
    assert torch.equal(predict_scaled(array)["sem_seg"], scores)
    empty = np.where(array == array.max(), np.nan, array)
    expected = predictor(np.nan_to_num(empty))["sem_seg"]
    assert torch.equal(predictor(empty)["sem_seg"], expected)
    sample = HieraDatasetMapper(cfg, False)(record)
    with torch.no_grad():
        (output,) = trainer.model.eval()([sample])
    assert torch.equal(output["hiera_labels"][-1].long(), labels)
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES = True, (40, 60)
    cfg.TEST.AUG.CROP_SIZE, cfg.TEST.AUG.FLIP = [32, 32], True
    assert HieraPredictor(cfg, trainer.model)(record["file_name"])["labels"].shape == (40, 48)

    with pytest.raises(ConfigError, match="MODEL.PIXEL_MEAN: cannot export .* 5 channels"):
        DeployedSegmentor(trainer.model)
    shown, truth = SampleReader(cfg, "toy")(record)
    assert shown.dtype == np.uint8 and np.array_equal(shown[..., 0], shown[..., 1])
    band = array[..., 3]
    bright, dark = shown[..., 0][band > 2700], shown[..., 0][band < 300]
    assert bright.min() > 180 and dark.max() < 40
    with PredictionWriter(predictor, tmp_path) as writer:
        writer.add_image("x", record["file_name"], shown[..., ::-1], truth)
    assert np.asarray(Image.open(tmp_path / "x_class.png")).shape == (40, 48, 3)
