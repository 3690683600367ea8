"""What to predict on: files that patterns name, and the frames of videos and cameras."""

import sys
from pathlib import Path

import numpy as np
import pytest

from hiera_seg.errors import DatasetError
from hiera_seg.inference import VideoFrames, find_media
from hiera_seg.inference.media import output_stems


@pytest.fixture
def files(tmp_path, monkeypatch):
    for name in ("a.jpg", "b.PNG", "c.mp4", "notes.txt", "sub/a.jpg", "folder.jpg/x.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_folders_and_globs(files):
    assert find_media(".") == ["a.jpg", "b.PNG", "c.mp4"]  # no text, no folder, not below
    assert find_media("**/*.jpg") == ["a.jpg", "sub/a.jpg"]
    assert find_media("notes.txt") == ["notes.txt"]  # who names it wants it
    assert find_media("none.jpg") == find_media("*.gif") == []


def test_loops_of_links_are_not_followed(files):
    for link in ("loop", "again", "sub/up"):
        (files / link).symlink_to(files)
    assert find_media("**/*.jpg") == ["a.jpg", "sub/a.jpg"]
    assert find_media(f"{files}/**/a.*") == [f"{files}/a.jpg", f"{files}/sub/a.jpg"]
    (files / "else").mkdir()
    (files / "else/d.jpg").touch()
    (files / "sub/more").symlink_to(files / "else")
    assert find_media("sub/**") == ["sub/a.jpg", "sub/more/d.jpg"]
    assert find_media("s*/**/mo*/**/*.jpg") == ["sub/more/d.jpg"]


def test_names_of_results():
    assert output_stems(["x/a.jpg", "y/b.png", "c.mp4"]) == ["a", "b", "c"]
    found = output_stems(["x/a.jpg", "x/b.jpg", "y/z/a.jpg"])
    assert found == ["x_a.jpg", "b", "y_z_a.jpg"]
    assert output_stems(["x/a.jpg", "x/a.mp4"]) == ["a.jpg", "a.mp4"]
    clash = output_stems(["x/y/a.jpg", "x_y/a.jpg", "z/a.jpg"])
    assert clash == ["x_y_a.jpg", "x_y_a.jpg_2", "z_a.jpg"]


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_frames_of_a_clip(write_video, tmp_path, suffix):
    path = write_video(tmp_path / f"clip{suffix}", num_frames=4)
    with VideoFrames(path) as frames:
        assert (frames.fps, frames.num_frames, frames.is_camera) == (8, 4, False)
        pictures = list(frames)
    assert all(p.shape == (40, 56, 3) and p.dtype == np.uint8 for p in pictures)
    # Codecs are lossy
    assert [p.mean() for p in pictures] == pytest.approx([30, 50, 70, 90], abs=8)


def test_files_that_are_no_videos(write_video, tmp_path, capfd):
    with pytest.raises(DatasetError, match=r"none\.mp4: cannot be opened"):
        VideoFrames(tmp_path / "none.mp4")
    whole = write_video(tmp_path / "whole.avi").read_bytes()
    for name, content in (("text.mp4", b"no video"), ("empty.avi", b""), ("cut.avi", whole[:2000])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=f"{name}: (cannot be opened|ends after 0)"):
            list(VideoFrames(tmp_path / name))
    assert capfd.readouterr().err == ""  # the error says it all


def test_a_video_that_ends_early(write_video, tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.avi")
    frames = VideoFrames(path)
    frames.num_frames = 9
    found = []
    with pytest.raises(DatasetError, match="ends after 5 of 9 frames"):
        for frame in frames:
            found.append(frame)
    assert len(found) == 5  # what was there has been given
    frames = VideoFrames(path)
    frames.num_frames = 0
    assert len(list(frames)) == 5


class Camera:
    """OpenCV's capture of a device that returns N frames, the last one larger on request."""

    pictures = 3
    sizes = ()

    def __init__(self, number, backend):
        self.left = list(range(self.pictures)) if number == 0 else None

    def isOpened(self):
        return self.left is not None

    def get(self, what):
        return 0.0 if self.left is not None else -1.0

    def read(self):
        if not self.left:
            return False, None
        number = self.left.pop(0)
        size = self.sizes[number] if self.sizes else (4, 6)
        return True, np.full((*size, 3), number, np.uint8)

    def release(self):
        self.left = None


@pytest.fixture
def camera(monkeypatch):
    import cv2

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    return Camera


def test_a_camera(camera):
    frames = VideoFrames(0)
    assert (frames.name, frames.fps, frames.num_frames) == ("webcam 0", 25, None)
    found = []
    with pytest.raises(DatasetError, match="webcam 0: .*after 3 frames"):
        for frame in frames:
            found.append(frame[0, 0, 0])
    assert found == [0, 1, 2]
    with pytest.raises(DatasetError, match="webcam 7: cannot be opened"):
        VideoFrames(7)


def test_frames_of_two_sizes(camera, monkeypatch):
    monkeypatch.setattr(camera, "sizes", [(4, 6), (4, 6), (6, 4)])
    with pytest.raises(DatasetError, match="after 2 frames, from 6x4 to 4x6"):
        list(VideoFrames(0))


def test_a_file_whose_decoder_throws(camera, monkeypatch, tmp_path):
    import cv2

    monkeypatch.setattr(camera, "isOpened", lambda self: True)

    def throw(self):
        raise cv2.error("no such codec")

    monkeypatch.setattr(camera, "read", throw)
    with pytest.raises(DatasetError, match=r"a\.mp4: ends after 0 of unknown"):
        list(VideoFrames(tmp_path / "a.mp4"))


def test_without_opencv(monkeypatch, tmp_path):
    (tmp_path / "a.mp4").touch()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DatasetError, match="needs OpenCV: pip install opencv-python-headless"):
        VideoFrames(Path(tmp_path / "a.mp4"))
