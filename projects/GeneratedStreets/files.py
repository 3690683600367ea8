"""Write the scenes of a split as PNG files below a cache folder, once, and list them.

The folder's name holds a fingerprint of what decides the pixels, so files of an older version are
never mistaken for those of this one.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from PIL import Image

from hiera_seg.errors import DatasetError

HERE = Path(__file__).parent
TREE = HERE / "tree.yaml"
CACHE_VARIABLE = "HIERA_SEG_CACHE"
SPLITS = {"train": (0, 400), "val": (1, 60)}  # seed, number of scenes
SIZE = (256, 384)  # height, width
KINDS = ("images", "labels")

logger = logging.getLogger(__name__)


def cache_root() -> Path:
    """Return $HIERA_SEG_CACHE, else hiera_seg below $XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen or Path(base, "hiera_seg")).expanduser()


@cache
def fingerprint() -> str:
    """Return a short hash of the code, the shapes and the tree."""
    files = {*HERE.glob("*.py"), *HERE.glob("*.yaml")} - {HERE / "files.py", HERE / "__init__.py"}
    text = b"".join(path.read_bytes().replace(b"\r\n", b"\n") for path in sorted(files))
    return hashlib.sha256(text).hexdigest()[:12]


def list_scenes(split: str, *, count: int | None = None, size=SIZE) -> list[dict]:
    """List the scenes of a split in Detectron2's format; draw them if the cache lacks them.

    Several processes may ask at once: each draws into a folder of its own, and the first to finish
    moves it into place.

    Args:
        split: "train" or "val".
        count: number of scenes; default: all of the split.
        size: height and width in pixels.

    Returns:
        Dicts with ``file_name``, ``sem_seg_file_name``, ``height`` and ``width``.

    Raises:
        DatasetError: the split is unknown, OpenCV is missing, or the cache cannot be written.
    """
    if split not in SPLITS:
        raise DatasetError(f"split {split!r} of the generated scenes: unknown; use train or val")
    (seed, all_scenes), (height, width) = SPLITS[split], size
    count = all_scenes if count is None else count
    manifest = {"drawn_by": fingerprint(), "seed": seed, "count": count, "size": [height, width]}
    name = f"{split}-{fingerprint()}-{seed}-{count}-{height}-{width}"
    folder = cache_root() / "generated" / name
    try:
        if not _is_complete(folder, manifest):
            _draw_split(folder, manifest)
    except OSError as error:
        raise DatasetError(
            f"{folder}: cannot write the generated scenes ({error}); set {CACHE_VARIABLE} to a "
            "folder that can be written"
        ) from error
    images, labels = ([str(folder / kind / f"{k:05d}.png") for k in range(count)] for kind in KINDS)
    return [
        {"file_name": image, "sem_seg_file_name": label, "height": height, "width": width}
        for image, label in zip(images, labels, strict=True)
    ]


def _is_complete(folder: Path, manifest: dict) -> bool:
    try:
        same = json.loads((folder / "manifest.json").read_text()) == manifest
        return same and all(len(os.listdir(folder / kind)) == manifest["count"] for kind in KINDS)
    except (OSError, ValueError):
        return False


def _draw_split(folder: Path, manifest: dict) -> None:
    """Draw into a temporary folder beside `folder`, then move it there in one step."""
    from .scene import draw_scene  # needs OpenCV, which listing and registering do not

    logger.info("Drawing %d scenes into %s (once)", manifest["count"], folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        work.chmod(0o755)  # mkdtemp's 0700 would hide a shared cache from other users
        for kind in KINDS:
            (work / kind).mkdir()
        for index in range(manifest["count"]):
            scene = draw_scene(manifest["seed"], index, tuple(manifest["size"]))
            for kind, array in zip(KINDS, scene, strict=True):
                Image.fromarray(array).save(work / kind / f"{index:05d}.png", compress_level=1)
        (work / "manifest.json").write_text(json.dumps(manifest))
        if folder.exists() and not _is_complete(folder, manifest):
            # Damaged, for instance by a cleaner of old files.
            damaged = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
            os.replace(folder, damaged / "old")
            shutil.rmtree(damaged, ignore_errors=True)
        try:
            os.rename(work, folder)
        except OSError:
            if not _is_complete(folder, manifest):  # else another process was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
