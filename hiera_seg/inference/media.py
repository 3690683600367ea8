"""Find images and videos to predict on, and read the frames of videos and cameras."""

import glob
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from hiera_seg.data.listing import IMAGE_TYPES, walk_folders
from hiera_seg.data.opencv import quiet_opencv
from hiera_seg.errors import DatasetError

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
# Containers often only estimate their number of frames; a smaller share means damage
_LEAST_SHARE = 0.9


def is_video(path: str | os.PathLike) -> bool:
    """Return whether a file name has the suffix of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def find_media(pattern: str) -> list[str]:
    """Return the images and videos that a path, folder or glob pattern matches, sorted.

    A path or pattern matches files of any name, a folder those in it with the suffix of an image
    or video. ``**`` matches a folder and all folders below it, each once, even if there are several
    links to it.
    """
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        known = (*IMAGE_TYPES, *VIDEO_SUFFIXES)
        inside = sorted(path for path in Path(pattern).iterdir() if path.is_file())
        return [str(path) for path in inside if path.suffix.lower() in known]
    return sorted(path for path in set(_expand(pattern)) if os.path.isfile(path))


def _expand(pattern: str) -> Iterator[str]:
    """Yield the matches of a pattern; the ``**`` of glob would follow loops of links."""
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
    """Return the beginning of the output file names for each path: its stem if that is unique.

    Paths with the same stem keep their suffixes and the folders in which they differ, and get a
    number if that is still not unique.
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
    """Iterate over the frames of a video file or a camera; a context manager.

    ::

        with VideoFrames("drive.mp4") as frames:
            for frame in frames:                  # uint8 (H, W, 3), BGR
                predictor(frame)

    Attributes:
        name: name of the file or camera, for messages.
        is_camera: whether the source is a camera, which never ends.
        fps: frames per second; 25 if unknown.
        num_frames: number of frames by the file's header; None for a camera or if unknown.
    """

    def __init__(self, source: str | os.PathLike | int):
        """
        Args:
            source: a file, or the number of a camera.

        Raises:
            DatasetError: OpenCV is missing, there is no such file or camera, or it cannot be read.
        """
        self.is_camera = isinstance(source, int)
        self.name = f"webcam {source}" if self.is_camera else os.fspath(source)
        cv2 = quiet_opencv("reading videos")
        self._errors = cv2.error
        # No other backend reads files that FFmpeg cannot, and some print errors on stderr
        only_ffmpeg = not self.is_camera and cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends()
        backend = cv2.CAP_FFMPEG if only_ffmpeg else cv2.CAP_ANY
        self._capture = cv2.VideoCapture(
            source if self.is_camera else os.path.abspath(self.name), backend
        )
        if not self._capture.isOpened():
            raise DatasetError(
                f"{self.name}: cannot be opened; expected "
                + ("a camera that you may use" if self.is_camera else "an intact video file")
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and fps > 0 else 25.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = not self.is_camera and math.isfinite(count) and count > 0
        self.num_frames = round(count) if known else None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Read the frames.

        Yields:
            uint8 (H, W, 3), BGR.

        Raises:
            DatasetError: after the last frame that can be read, if a file has none or far fewer
                than its header says, a camera has stopped, or the size of frames changes.
        """
        read, size = 0, None
        while (frame := self._read()) is not None:
            if size is not None and frame.shape != size:
                raise DatasetError(
                    f"{self.name}: the size changes after {read} frames, from {size[1]}x{size[0]} "
                    f"to {frame.shape[1]}x{frame.shape[0]}; split the video there"
                )
            size = frame.shape
            yield frame
            read += 1
        if self.is_camera:
            raise DatasetError(f"{self.name}: no image after {read} frames; check the camera")
        if read < max(1, _LEAST_SHARE * (self.num_frames or 0)):
            raise DatasetError(
                f"{self.name}: ends after {read} of {self.num_frames or 'unknown'} frames; "
                "expected an intact video file"
            )

    def _read(self) -> np.ndarray | None:
        try:
            good, frame = self._capture.read()
        except self._errors:
            return None
        return frame if good else None

    def close(self) -> None:
        """Release the file or camera."""
        self._capture.release()

    def __exit__(self, *_: object) -> None:
        self.close()
