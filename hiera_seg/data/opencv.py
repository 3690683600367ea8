"""Import OpenCV, an optional package, with its messages on stderr turned off."""

import os
from types import ModuleType

from hiera_seg.errors import DatasetError


def quiet_opencv(purpose: str) -> ModuleType:
    """Import ``cv2`` without its messages on stderr, which repeat its return values.

    Raises:
        DatasetError: OpenCV is not installed; the message names the `purpose` that needs it.
    """
    # The log level of FFmpeg, read when the first video is opened; a user's setting is kept.
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
