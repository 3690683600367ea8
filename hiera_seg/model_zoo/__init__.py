"""Locate the config files that come with the package, in a wheel as in a checkout."""

from pathlib import Path

from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy.messages import suggestion

__all__ = ["config_names", "get_config_file"]

_HERE = Path(__file__).resolve().parent
# A wheel holds a copy of the folders configs/ and projects/*/configs/ beside this file (setup.py).
_ROOT = _HERE if (_HERE / "configs").is_dir() else _HERE.parents[1]
_FOLDERS = ("configs", "projects/HSSN/configs")


def config_names() -> list[str]:
    """Return the names that :func:`get_config_file` accepts, sorted."""
    files = (file for folder in _FOLDERS for file in (_ROOT / folder).rglob("*.yaml"))
    return sorted(file.relative_to(_ROOT).as_posix().removeprefix("configs/") for file in files)


def get_config_file(name: str) -> str:
    """Return the path of a config file of the package.

    Args:
        name: path below ``configs/``, such as ``"CamVid/hssn_deeplab_v3_plus_r18.yaml"``, or from
            the top of the repository for recipes of a project, such as
            ``"projects/HSSN/configs/Cityscapes/paper_deeplab_v3_plus_r101.yaml"``.

    Raises:
        ConfigError: there is no config of that name; the message names the nearest ones.
    """
    known = config_names()
    if name.removeprefix("configs/") not in known:
        raise ConfigError(f"unknown config {name!r}{suggestion(name, known)}")
    name = name.removeprefix("configs/")
    return str(_ROOT / (name if name.startswith("projects/") else f"configs/{name}"))
