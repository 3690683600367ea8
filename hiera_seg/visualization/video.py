"""Write videos with OpenCV."""

import errno
import os
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from hiera_seg.data.opencv import quiet_opencv

# Most players support MPEG-4. It refuses a few frame rates; every OpenCV has Motion JPEG.
_CODECS = (("mp4v", ".mp4"), ("MJPG", ".avi"))
_MOST_FPS = 240.0


class VideoWriter(AbstractContextManager):
    """Write RGB images of one size as a video; a context manager.

    Args:
        stem: path without suffix.
        fps: frames per second; values above 240 are reduced to 240.
        size: (height, width). Codecs need even sizes, so the last row or column may be repeated.

    Attributes:
        path: of the file, with the suffix of the codec.

    Raises:
        DatasetError: OpenCV is not installed.
        OSError: the file cannot be written, or there is no codec.
    """

    def __init__(self, stem: str | os.PathLike, fps: float, size: tuple[int, int]):
        self._cv2 = cv2 = quiet_opencv("writing videos")
        self._size = size
        self._odd = tuple((0, n % 2) for n in size)
        height, width = (n + n % 2 for n in size)
        for codec, suffix in _CODECS:
            self.path = Path(f"{stem}{suffix}")
            code = cv2.VideoWriter_fourcc(*codec)
            self._writer = cv2.VideoWriter(
                os.path.abspath(self.path), code, min(fps, _MOST_FPS), (width, height)
            )
            if self._writer.isOpened():
                return
        raise OSError(
            f"cannot write video {stem}; check that its folder is writable and OpenCV supports "
            f"{' or '.join(codec for codec, _ in _CODECS)}"
        )

    def write(self, frame: np.ndarray) -> None:
        """Append a frame.

        Args:
            frame: (H, W, 3) uint8, RGB.

        Raises:
            ValueError: its size is not that of the video.
        """
        if frame.shape != (*self._size, 3):
            raise ValueError(
                f"a frame of {frame.shape[1]}x{frame.shape[0]} in a video of "
                f"{self._size[1]}x{self._size[0]}"
            )
        even = np.pad(frame, (*self._odd, (0, 0)), mode="edge")
        self._writer.write(np.ascontiguousarray(even[:, :, ::-1]))

    def close(self) -> None:
        """Finish the file.

        Raises:
            OSError: it cannot be read back; OpenCV does not report a full disk.
        """
        self._writer.release()
        capture = self._cv2.VideoCapture(os.path.abspath(self.path))
        readable = capture.isOpened() and capture.read()[0]
        capture.release()
        if not readable:
            raise OSError(
                errno.EIO, "the video cannot be read back; is the disk full?", str(self.path)
            )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # do not hide that error
            self._writer.release()
