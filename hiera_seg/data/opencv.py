"""OpenCV where it is there, without its chatter."""

import os
from types import ModuleType

from hiera_seg.errors import DatasetError


def quiet_opencv(purpose: str) -> ModuleType:
    """Import OpenCV, and keep it from writing to stderr what its return values say already.

    Args:
        purpose: what it is wanted for, for the message.

    Returns:
        The module ``cv2``.

    Raises:
        DatasetError: it is not installed.
    """
    # FFmpeg's own level, read when the first video is opened; a user's setting wins.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise DatasetError(
            f"{purpose} needs OpenCV: pip install opencv-python-headless (or opencv-python)"
        ) from error
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
