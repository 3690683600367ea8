"""tools/demo.py on a small network with random weights: files, and errors of one line."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from hiera_seg import Hierarchy
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.errors import ConfigError
from hiera_seg.inference.predictions import refuse_overwriting
from tests.helpers import TOOLS, new_config, run_python
from tests.messages import check_one_error
from tests.tiny_street import SMALL_NETWORK

STREET = Hierarchy.from_dict(
    {"flat": ["road", "path"], "vehicle": {"van": None, "car": ["bus", "taxi"]}},
    name="street",
    levels=["group", "kind", "class"],
)
NAME = "demo_street_test"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A tree, a config, weights, images in two folders and a dataset."""
    folder = tmp_path_factory.mktemp("demo")
    rng = np.random.default_rng(0)
    for name in ("images/a.jpg", "images/b.png", "more/a.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        noise = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    (folder / "labels").mkdir()
    for stem in "ab":
        Image.fromarray(np.full((40, 50), STREET["car"], np.uint8)).save(
            folder / f"labels/{stem}.png"
        )
    (folder / "images" / "notes.txt").write_text("no image")
    STREET.to_yaml(folder / "street.yaml")

    cfg = new_config(*SMALL_NETWORK)
    cfg.MODEL.HIERA_SEG.HIERARCHY = str(folder / "street.yaml")
    cfg.OUTPUT_DIR = str(folder / "run")
    (folder / "run").mkdir()
    (folder / "config.yaml").write_text(cfg.dump())
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    backbone = {f"backbone.{k}": v for k, v in model.backbone.state_dict().items()}
    torch.save({"model": backbone}, folder / "backbone.pth")

    roots = {"image_root": folder / "images", "sem_seg_root": folder / "labels"}
    register_hierarchical_dataset(NAME, hierarchy=STREET, **roots)
    return folder


@pytest.fixture
def demo(start_tool, project, tmp_path):
    run_tool = start_tool("demo")

    def run(*options, weights="weights.pth"):
        options = ["--config-file", project / "config.yaml", "--output", tmp_path / "out", *options]
        if weights:
            options += [] if "--opts" in options else ["--opts"]
            options += ["MODEL.WEIGHTS", project / weights]
        return run_tool(*options)

    return run


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_of_every_level(demo, project, tmp_path):
    code, out, err = demo("--input", project / "images" / "a.jpg")
    assert (code, err) == (0, "") and "1 of 1 images" in out
    expected = [f"a-ids-{level}.png" for level in STREET.level_names] + ["a-levels.png"]
    expected += [f"a_{level}.png" for level in STREET.level_names]
    assert names_in(tmp_path / "out") == sorted(expected)
    paths = [tmp_path / "out" / f"a-ids-{level}.png" for level in STREET.level_names]
    ids = [np.asarray(Image.open(path)) for path in paths]
    assert all(np.isin(ids[level], STREET.level_nodes(level)).all() for level in range(3))
    assert (ids[0] == STREET.level_ancestor[0][ids[2]]).all() and ids[0].shape == (40, 50)


def test_files_of_floats_by_a_range(demo, project, tmp_path):
    grey = np.asarray(Image.open(project / "images/a.jpg").convert("L"))
    Image.fromarray(grey / np.float32(255)).save(tmp_path / "floats.tif")
    code, _, err = demo("--input", tmp_path / "floats.tif")
    assert code == 1 and "floats.tif" in err and "INPUT.IMAGE_RANGE" in err
    options = ("--opts", "INPUT.IMAGE_RANGE", "[0, 1]")
    code, out, _ = demo("--input", tmp_path / "floats.tif", *options)
    assert code == 0 and "1 of 1 images" in out


def test_folders_globs_and_one_level(demo, project, tmp_path):
    code, out, _ = demo("--input", project / "images", project / "*" / "a.jpg", "--level", "kind")
    assert code == 0 and "3 of 3 images" in out  # each once, and no text file
    stems = ["images_a.jpg", "b", "more_a.jpg"]  # folders tell equal names apart
    files = [f"{stem}{end}.png" for stem in stems for end in ("_kind", "-ids-kind", "-levels")]
    assert names_in(tmp_path / "out") == sorted(files)


def test_a_dataset_is_drawn_with_its_ground_truth(demo, project, tmp_path):
    code, out, err = demo("--dataset", NAME, "--num", 2)
    assert (code, err) == (0, "") and "2 of 2 images" in out
    with_truth = Image.open(tmp_path / "out" / "a-levels.png").height
    demo("--input", project / "images" / "a.jpg")
    assert with_truth > 1.3 * Image.open(tmp_path / "out" / "a-levels.png").height


def test_the_test_set_of_the_config_is_the_default(demo):
    code, out, _ = demo("--num", 1, "--opts", "DATASETS.TEST", f"('{NAME}',)")
    assert code == 0 and "1 of 1 images" in out


@pytest.mark.parametrize(
    "option", [("--opts", "MODEL.HIERA_SEG.TEST.MIN_CONFIDENCE", 2.0), ("--safe-depth", 2)]
)
def test_safe_depth_is_drawn_as_inner_nodes(demo, project, tmp_path, option):
    image = project / "images" / "a.jpg"
    assert demo("--input", image, "--write", "labels", *option)[0] == 0
    names = [f"a-ids-{name}.png" for name in ("class", "group", "kind")]
    assert names_in(tmp_path / "out") == names
    ids = np.asarray(Image.open(tmp_path / "out" / "a-ids-class.png"))
    assert np.isin(ids, STREET.level_nodes(0)).all()


@pytest.fixture
def clip(write_video, tmp_path):
    return write_video(tmp_path / "clip.avi")


def frames_in(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame)
    return frames, capture.get(cv2.CAP_PROP_FPS)


def test_a_video_becomes_a_video_of_every_level(demo, clip, tmp_path):
    code, out, err = demo("--input", clip)
    assert (code, err) == (0, "") and "clip.avi: 5 frames" in out and "1 of 1 videos" in out
    written = names_in(tmp_path / "out")
    assert [Path(name).stem for name in written] == ["clip_class", "clip_group", "clip_kind"]
    frames, fps = frames_in(tmp_path / "out" / written[0])
    assert [frame.shape for frame in frames] == [(40, 56, 3)] * 5 and fps == 8


def test_label_maps_and_regions_of_a_video(demo, clip, project, tmp_path):
    code, out, err = demo(
        "--input", project / "images" / "a.jpg", clip, "--level", "kind", "--max-frames", 3,
        "--write", "labels", "rle", "strip",
    )  # fmt: skip
    assert (code, err) == (0, "") and "2 of 2 images and videos" in out
    assert [Path(name).stem for name in names_in(tmp_path / "out")] == [
        "a-ids-kind", "a-levels", "clip-ids-kind", "clip-levels", "rle-images", "rle-kind",
    ]  # fmt: skip
    maps = tmp_path / "out" / "clip-ids-kind"
    assert names_in(maps) == ["000000.png", "000001.png", "000002.png"]
    (strip,) = (tmp_path / "out").glob("clip-levels.*")
    assert len(frames_in(strip)[0]) == 3
    regions = json.loads((tmp_path / "out" / "rle-kind.json").read_text())
    last = [region for region in regions if region["image_id"] == 4]  # the image, three frames
    found = np.full((40, 56), -1)
    for region in last:
        found[mask_util.decode(region["segmentation"]) == 1] = region["category_id"]
        assert 0 < region["score"] < 1
    np.testing.assert_array_equal(found, np.asarray(Image.open(maps / "000002.png")))


class Webcam:
    """The device 0, which gives six pictures, then a Ctrl-C or nothing."""

    ctrl_c = True

    def __init__(self, number, backend):
        self.opened, self.left = number == 0, 6

    def isOpened(self):
        return self.opened

    def get(self, what):
        return 0.0

    def read(self):
        self.left -= 1
        if self.left < 0 and self.ctrl_c:
            raise KeyboardInterrupt
        return self.left >= 0, np.full((40, 56, 3), 100, np.uint8)

    def release(self):
        pass


def test_webcams(demo, tmp_path, monkeypatch):
    real = cv2.VideoCapture
    monkeypatch.setattr(
        cv2, "VideoCapture", lambda *x: Webcam(*x) if isinstance(x[0], int) else real(*x)
    )
    code, out, err = demo("--webcam", "--level", "group")
    assert (code, err) == (0, "") and "webcam 0: 6 frames" in out  # Ctrl-C is its usual end
    code, out, _ = demo("--webcam", 0, "--level", "kind", "--max-frames", 2)
    assert code == 0 and "webcam 0: 2 frames" in out
    check_one_error(demo("--webcam", 3), 1, "webcam 3: cannot be opened")
    monkeypatch.setattr(Webcam, "ctrl_c", False)
    stopped = demo("--webcam", "--level", "class")
    check_one_error(stopped, 1, "webcam 0: no image after 6 frames")
    monkeypatch.setattr(cv2, "VideoCapture", real)
    for level, count in (("group", 6), ("kind", 2), ("class", 6)):
        (path,) = (tmp_path / "out").glob(f"webcam_{level}.*")
        assert len(frames_in(path)[0]) == count


def test_the_last_checkpoint_of_the_run_is_used(demo, project, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    os.link(project / "weights.pth", run / "model_final.pth")
    (run / "last_checkpoint").write_text("model_final.pth")
    image = project / "images" / "a.jpg"
    code, out, _ = demo("--input", image, "--opts", "OUTPUT_DIR", run, weights=None)
    assert code == 0 and f"weights: {run / 'model_final.pth'}" in out


def test_each_bad_input_is_told_in_a_line_and_the_others_are_done(demo, project, clip, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image at all")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    code, out, err = demo(
        "--input", tmp_path / "empty", tmp_path / "broken.png", tmp_path / "broken.mp4",
        "nowhere.jpg", clip, project / "images" / "b.png", "--level", "group",
    )  # fmt: skip
    assert code == 1 and "2 of 6 images and videos" in out
    lines = err.splitlines()
    names = ["empty", "nowhere.jpg", "broken.png", "broken.mp4"]
    assert len(lines) == 4
    for line, name in zip(lines, names, strict=True):
        assert line.startswith("error: ") and name in line
    assert {"b-levels.png", "b_group.png"} <= set(names_in(tmp_path / "out"))


def test_files_that_can_not_be_written(demo, project, clip, tmp_path):
    """A folder is where a file should be: the others are done."""
    (tmp_path / "out" / "a_group.png").mkdir(parents=True)
    (tmp_path / "out" / "clip_group.mp4").mkdir()
    (tmp_path / "out" / "clip_group.avi").mkdir()
    images = (project / "images" / "a.jpg", clip, project / "images" / "b.png")
    code, out, err = demo("--input", *images, "--level", "group")
    assert code == 1 and "1 of 3 images and videos" in out
    first, second = err.splitlines()
    assert "a_group.png: Is a directory" in first and "cannot write video" in second
    (tmp_path / "out" / "rle-group.json").mkdir()
    options = ("--level", "group", "--write", "rle")
    check_one_error(demo("--input", images[0], *options), 1, "rle-group.json: Is a directory")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--input", "nowhere/*.jpg"], ["nowhere/*.jpg", "no image"]),
        (["--input", "{project}/labels/.."], ["no image"]),
        (["--input", "{image}", "--level", "groups"], ["'groups'", "group, kind, class"]),
        (["--input", "{image}", "--alpha", 3], ["--alpha is 3"]),
        (["--input", "{image}", "--safe-depth", -1], ["--safe-depth is -1"]),
        (["--input", "{image}", "--max-frames", 0], ["--max-frames is 0"]),
        (["--input", "{image}", "--output", "/proc"], ["cannot write to the folder /proc"]),
        (["--input", "{image}", "--output", "{project}/config.yaml"], ["config.yaml"]),
        (["--input", "{image}", "--opts", "MODEL.NOTHING", 1], ["MODEL.NOTHING"]),
        (["--input", "{image}", "--opts", "MODEL.META_ARCHITECTURE", "SemanticSegmentor"],
         ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"]),
        (["--webcam", -1], ["--webcam is -1"]),
        (["--dataset", NAME, "--num", 0], ["--num is 0"]),
        (["--dataset", "demo_street_tests"], ["'demo_street_tests'", NAME]),
        ([], ["DATASETS.TEST is empty"]),
    ],
)  # fmt: skip
def test_bad_arguments(demo, project, options, parts):
    names = {"project": project, "image": project / "images/a.jpg"}
    check_one_error(demo(*(str(option).format(**names) for option in options)), 2, *parts)


def test_no_input_is_written_over(demo, project, tmp_path):
    for name in ("a.png", "a_kind.png"):
        Image.new("RGB", (20, 16)).save(tmp_path / name)
    options = ("--input", tmp_path, "--output", tmp_path)
    check_one_error(demo(*options), 2, "a_kind.png: would be overwritten")
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a.png", "a_kind.png"]


def test_no_picture_is_written_over_another():
    tree = Hierarchy.from_dict({"a": {"b": ["c"]}}, levels=["super_group", "group", "class"])
    refuse_overwriting(["street", "road_super"], [], "out", tree)
    with pytest.raises(
        ConfigError, match="street_super_group.png: .*'street' and .*'street_super'"
    ):
        refuse_overwriting(["street", "street_super"], [], "out", tree)


def test_weights_that_can_not_be_used(demo, project, tmp_path):
    image = ("--input", project / "images" / "a.jpg")
    check_one_error(demo(*image, weights=None), 2, "no weights", "MODEL.WEIGHTS", "run")
    check_one_error(demo(*image, weights="none.pth"), 1, "none.pth")
    tree = ("--opts", "MODEL.HIERA_SEG.HIERARCHY", "lip")
    check_one_error(demo(*image, *tree), 1, "weights.pth", "sem_seg_head.predictor")
    check_one_error(demo(*image, weights="backbone.pth"), 1, "no segmentation head")


def test_without_opencv():
    code = """
import runpy, sys
sys.modules["cv2"] = None
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    options = ("--config-file", "none.yaml", "--output", "out")
    result = run_python("-c", code, TOOLS / "demo.py", *options)
    assert result.returncode == 1
    assert result.stderr == (
        "error: drawing needs OpenCV: pip install opencv-python-headless (or opencv-python)\n"
    )


def test_a_geotiff_keeps_its_georeferencing(demo, project, tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="needs tifffile")
    image = np.asarray(Image.open(project / "images/b.png"))
    tag = (33550, "d", 3, (0.5, 0.5, 0.0), True)
    tifffile.imwrite(tmp_path / "b.tif", image, photometric="rgb", extratags=[tag], metadata=None)
    code, _, err = demo("--input", tmp_path / "b.tif", "--level", "class")
    assert code == 0, err
    expected = demo("--input", project / "images/b.png", "--level", "class")
    assert expected[0] == 0
    with tifffile.TiffFile(tmp_path / "out/b-ids-class.tif") as file:
        assert file.pages[0].tags[33550].value == (0.5, 0.5, 0.0)
        ids = file.asarray()
    np.testing.assert_array_equal(ids, np.asarray(Image.open(tmp_path / "out/b-ids-class.png")))
    assert (tmp_path / "out/b_class.tif").exists() and (tmp_path / "out/b-levels.png").exists()
