"""Videos that are written can be read, whatever their size and rate."""

import cv2
import numpy as np
import pytest

from hiera_seg.visualization import VideoWriter


def write(stem, fps, size, num_frames=3):
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    try:
        writer = VideoWriter(stem, fps, size)
    except OSError as error:
        pytest.skip(str(error))
    with writer:
        for i in range(num_frames):
            writer.write(np.full((*size, 3), colors[i], np.uint8))
    return writer.path


def read(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame[:, :, ::-1].astype(int))
    return frames, capture.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize("size", [(36, 64), (35, 63)])
@pytest.mark.parametrize("fps", [5, 30000 / 1001])
def test_pictures_size_and_rate(tmp_path, size, fps):
    frames, found = read(write(tmp_path / "a", fps, size))
    assert found == pytest.approx(fps, rel=1e-3)
    assert [frame.shape for frame in frames] == [(36, 64, 3)] * 3  # the last row is repeated
    for frame, channel in zip(frames, range(3), strict=True):
        assert frame.mean((0, 1)).argmax() == channel
        assert np.abs(frame[-1, -1] - frame[5, 5]).max() < 10


def test_rates_that_mpeg_4_refuses(tmp_path):
    frames, fps = read(write(tmp_path / "a", 90000.0, (36, 64)))
    assert len(frames) == 3 and 0 < fps <= 600


def test_what_can_not_be_written(tmp_path):
    with pytest.raises(OSError, match=r"cannot write video .*nowhere/a"):
        VideoWriter(tmp_path / "nowhere" / "a", 5, (36, 64))
    with pytest.raises(OSError, match=r"is the disk full.*a\.mp4"):
        with VideoWriter(tmp_path / "a", 5, (36, 64)) as writer:
            for _ in range(3):
                writer.write(np.zeros((36, 64, 3), np.uint8))
            writer._writer.release()
            writer.path.write_bytes(writer.path.read_bytes()[:200])  # what reached the disk
    with pytest.raises(ValueError, match="a frame of 60x36 in a video of 64x36"):
        with VideoWriter(tmp_path / "a", 5, (36, 64)) as writer:
            writer.write(np.zeros((36, 60, 3), np.uint8))
