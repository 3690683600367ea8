from functools import partial

import numpy as np
import pytest
from PIL import Image

from hiera_seg.data.datasets.camvid import CLASSES

FRAMES = {"0001TP_006690": "train", "0016E5_07959": "val", "Seq05VD_f00000": "test"}


@pytest.fixture
def release(tmp_path):
    """A made-up release: three frames whose colours say ids 0..31 in 8 x 8 squares."""
    ids = {}
    for number, frame in enumerate(FRAMES):
        ids[frame] = (
            np.random.default_rng(number).integers(0, 32, (9, 12)).repeat(8, 0).repeat(8, 1)
        )
        colors = np.array([color for _, color in CLASSES], np.uint8)[ids[frame]]
        for folder, name, array in (
            ("stills", frame, colors // 2),
            ("coded", f"{frame}_L", colors),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{name}.png")
    return ids


@pytest.fixture
def prepare(tmp_path, start_tool):
    folders = ["--images", tmp_path / "stills", "--labels", tmp_path / "coded"]
    return partial(start_tool("../datasets/prepare_camvid"), *folders, "--out", tmp_path / "camvid")


def test_frames_go_to_their_splits_with_ids(release, prepare, tmp_path):
    code, out, err = prepare("--size", "original")
    assert (code, err) == (0, "")
    assert out == f"wrote 3 frames (1 test, 1 train, 1 val) to {tmp_path}/camvid\n"
    for frame, split in FRAMES.items():
        label = np.asarray(Image.open(tmp_path / f"camvid/labels/{split}/{frame}.png"))
        assert np.array_equal(label, release[frame])
        assert Image.open(tmp_path / f"camvid/images/{split}/{frame}.jpg").size == (96, 72)


def test_frames_are_resized_without_new_ids(release, prepare, tmp_path):
    assert prepare("--size", "24x18")[0] == 0
    for frame, split in FRAMES.items():
        label = np.asarray(Image.open(tmp_path / f"camvid/labels/{split}/{frame}.png"))
        assert np.array_equal(label, release[frame][2::4, 2::4])
        assert Image.open(tmp_path / f"camvid/images/{split}/{frame}.jpg").size == (24, 18)


def test_an_unknown_colour_is_named_with_its_file(release, prepare, tmp_path):
    path = tmp_path / "coded/0016E5_07959_L.png"
    colors = np.array(Image.open(path))
    colors[3, 5:8] = 1, 2, 3
    Image.fromarray(colors).save(path)
    code, _, err = prepare("--size", "original")
    assert code == 1
    assert err.startswith(f"error: {path}: 1 unknown colour(s): (1, 2, 3) 3x, at x=5 y=3; ")
    assert "--unknown-as-void" in err and err.count("\n") == 1
    assert prepare("--size", "original", "--unknown-as-void")[0] == 0
    label = np.asarray(Image.open(tmp_path / "camvid/labels/val/0016E5_07959.png"))
    assert (label[3, 5:8] == 255).all() and (label == 255).sum() == 3


def test_bad_input_is_one_line(release, prepare, tmp_path):
    extra = tmp_path / "stills/0006R0_f00930.png"
    Image.new("RGB", (96, 72)).save(extra)
    assert prepare()[::2] == (1, f"error: no label for {extra}\n")
    extra.unlink()
    code, _, err = prepare("--size", "big")
    assert code == 2 and err.startswith("error: --size 'big': ") and err.count("\n") == 1
    assert prepare("--labels", "nowhere")[::2] == (1, "error: folder not found: nowhere\n")
    small = tmp_path / "stills/0001TP_006690.png"
    Image.new("RGB", (95, 72)).save(small)
    code, _, err = prepare()
    assert code == 1 and err.startswith(f"error: size differs: image {small} is 95x72, label ")


def test_the_releases_colour_table_is_compared(release, prepare, tmp_path):
    lines = [f"{r} {g} {b}\t\t{name}" for name, (r, g, b) in CLASSES]
    (tmp_path / "label_colors.txt").write_text("\n".join([*lines, ""]))
    colors = ("--colors", f"{tmp_path}/label_colors.txt")
    assert prepare(*colors)[0] == 0
    lines[4] = "128 0 1\t\tBuilding"
    (tmp_path / "label_colors.txt").write_text("\n".join(lines))
    code, _, err = prepare(*colors)
    assert code == 1 and "label_colors.txt, line 5: " in err and "(128, 0, 0)" in err
