"""Open image and label files without downloading them, and name the file in every error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from detectron2.utils.file_io import PathManager
from PIL import UnidentifiedImageError

from hiera_seg.config.checks import remote_scheme
from hiera_seg.errors import DatasetError

# Schemes that Detectron2's file reader downloads; others are registered by a user's own code.
_DOWNLOADED = ("http", "https", "ftp", "detectron2", "catalog")


@contextmanager
def open_file(path: str, what: str) -> Iterator[IO[bytes]]:
    """Open a file to read; errors inside the context are re-raised with the name of the file.

    Args:
        path: the file.
        what: "image" or "label", for the message.

    Raises:
        DatasetError: the file is missing, would be downloaded, or cannot be read.
    """
    refuse_download(path)
    try:
        with PathManager.open(path, "rb") as file:
            yield file
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"{what} file not found: {path}") from error
    except Exception as error:  # the readers of image and array files raise errors of many types
        reason = f"{type(error).__name__}: {' '.join(str(error).split()) or 'unreadable'}"
        if isinstance(error, UnidentifiedImageError):  # its text is the address of a file object
            reason = "it is damaged or not an image"
        raise DatasetError(f"cannot read {what} file {path}: {reason}") from error


def refuse_download(path: object, where: str = "") -> None:
    """Raise DatasetError if Detectron2 would download a file; `where` begins the message."""
    if remote_scheme(path) in _DOWNLOADED:
        raise DatasetError(
            f"{where}{path}: images and labels are not downloaded; download the file and name "
            "the local copy"
        )
