"""Images, videos and cameras to predict on: which files there are, and the frames of a video."""

import glob
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from hiera_seg.data.listing import walk_folders
from hiera_seg.data.opencv import quiet_opencv
from hiera_seg.errors import DatasetError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
# Containers often only estimate how many frames they hold; one that ends this early is damaged.
_LEAST_SHARE = 0.9


def is_video(path: str | os.PathLike) -> bool:
    """Whether a file's name is that of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def find_media(pattern: str) -> list[str]:
    """The images and videos that a path, a folder or a glob names, sorted; may be none.

    A path or glob takes files of any name, a folder those with the suffix of an image or video.
    ``**`` stands for a folder and all below it, each of which is taken once, whatever links lead
    to it.
    """
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        known = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        inside = sorted(path for path in Path(pattern).iterdir() if path.is_file())
        return [str(path) for path in inside if path.suffix.lower() in known]
    return sorted(path for path in set(_expand(pattern)) if os.path.isfile(path))


def _expand(pattern: str) -> Iterator[str]:
    """Yield what a glob matches; glob's own ``**`` runs through loops of links."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    place = parts.index("**")
    head, rest = os.sep.join([*parts[:place], ""]), os.sep.join(parts[place + 1 :]) or "*"
    for root in glob.iglob(head) if head else [""]:
        for folder, _ in walk_folders(root or os.curdir):
            folder = os.path.normpath(folder) if not root else folder
            inside = "" if folder == os.curdir else os.path.join(glob.escape(folder), "")
            yield from _expand(inside + rest)


def output_stems(paths: Sequence[str]) -> list[str]:
    """A name for each file to write results under: its stem, where no other file has it.

    Files of one stem keep their suffixes and the folders that tell them apart; a number follows
    where that is not enough.
    """
    whole = [Path(os.path.abspath(path)) for path in paths]
    members: dict[str, list[Path]] = {}
    for path in whole:
        members.setdefault(path.stem, []).append(path)
    stems, taken = [], set()
    for path in whole:
        stem, others = path.stem, members[path.stem]
        if len(others) > 1:
            common = os.path.commonpath([other.parent for other in others])
            stem = "_".join(path.relative_to(common).parts)
        number, unique = 2, stem
        while unique in taken:
            unique = f"{stem}_{number}"
            number += 1
        taken.add(unique)
        stems.append(unique)
    return stems


class VideoFrames(AbstractContextManager):
    """The frames of a video file or a camera, one after the other; a context manager.

    ::

        with VideoFrames("drive.mp4") as frames:
            for frame in frames:                  # uint8 (H, W, 3), BGR
                predictor(frame)

    Attributes:
        name: of the file or camera, for people.
        is_camera: whether it has no end of its own.
        fps: frames a second; 25 where the source does not say.
        num_frames: how many it says it has; None for a camera, or where it does not say.
    """

    def __init__(self, source: str | os.PathLike | int):
        """
        Args:
            source: a file, or the number of a camera.

        Raises:
            DatasetError: no OpenCV, no such file or camera, or nothing that can be read of it.
        """
        self.is_camera = isinstance(source, int)
        self.name = f"webcam {source}" if self.is_camera else os.fspath(source)
        if not self.is_camera and not os.path.isfile(source):
            raise DatasetError(f"video file not found: {self.name}")
        cv2 = quiet_opencv("reading videos")
        self._errors = cv2.error
        # Where FFmpeg can not read a file no other backend can, and some say so on stderr.
        only_ffmpeg = not self.is_camera and cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends()
        backend = cv2.CAP_FFMPEG if only_ffmpeg else cv2.CAP_ANY
        self._capture = cv2.VideoCapture(
            source if self.is_camera else os.path.abspath(self.name), backend
        )
        if not self._capture.isOpened():
            what = "is there one, and may you use it?" if self.is_camera else "damaged, or no video"
            raise DatasetError(f"cannot open {self._what}: {what}")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and fps > 0 else 25.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = not self.is_camera and math.isfinite(count) and count > 0
        self.num_frames = round(count) if known else None

    @property
    def _what(self) -> str:
        return self.name if self.is_camera else f"video file {self.name}"

    def __iter__(self) -> Iterator[np.ndarray]:
        """Read the frames.

        Yields:
            uint8 (H, W, 3), BGR.

        Raises:
            DatasetError: after the last one that can be read, where a file has many less than it
                says, or none; a camera has stopped; or frames are not of one size.
        """
        read, size = 0, None
        while (frame := self._read()) is not None:
            if size is not None and frame.shape != size:
                raise DatasetError(
                    f"{self._what} changes its size after {read} frames, from {size[1]}x{size[0]} "
                    f"to {frame.shape[1]}x{frame.shape[0]}"
                )
            size = frame.shape
            yield frame
            read += 1
        if self.is_camera:
            raise DatasetError(f"{self.name} gives no picture after {read} frames")
        if read == 0:
            raise DatasetError(f"cannot read {self._what}: it has no frame that can be decoded")
        if self.num_frames is not None and read < _LEAST_SHARE * self.num_frames:
            raise DatasetError(
                f"{self._what} ends after {read} of {self.num_frames} frames: it is damaged"
            )

    def _read(self) -> np.ndarray | None:
        try:
            good, frame = self._capture.read()
        except self._errors:
            return None
        return frame if good else None

    def close(self) -> None:
        """Let go of the file or camera."""
        self._capture.release()

    def __exit__(self, *_: object) -> None:
        self.close()
