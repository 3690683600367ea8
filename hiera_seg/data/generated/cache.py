"""The generated scenes as ordinary files: drawn once, when a split is first used.

Detectron2's tools want file names, so a split is written as PNG below a cache folder and read like
any other dataset. The folder's name holds a fingerprint of the code that drew it: files of an older
version are never mistaken for those of this one.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from functools import lru_cache
from pathlib import Path

from PIL import Image

from hiera_seg import hierarchy
from hiera_seg.data.generated.scene import SIZE, draw_scene
from hiera_seg.disk import naming, replace_text
from hiera_seg.errors import DatasetError

CACHE_VARIABLE = "HIERA_SEG_CACHE"
SPLITS = {"train": (0, 400), "val": (1, 60)}  # seed, number of scenes
_MANIFEST = "manifest.json"

logger = logging.getLogger(__name__)


def cache_root() -> Path:
    """The folder for files that the package can make again.

    ``$HIERA_SEG_CACHE``, else ``hiera_seg`` below ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "hiera_seg"


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """A short hash of the code and the tree that decide the pixels."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    tree = Path(hierarchy.__file__).parent / "library" / "generated.yaml"
    for path in [*sorted(here.glob("*.py")), tree]:
        if path.name != Path(__file__).name:
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:12]


def list_scenes(
    split: str, *, count: int | None = None, size: tuple[int, int] = SIZE
) -> list[dict]:
    """The scenes of a split in Detectron2's format; draws them if they are not in the cache.

    Several processes may ask at once: each draws into a folder of its own, and the first to
    finish moves it into place.

    Args:
        split: "train" or "val".
        count: how many scenes; default: all of the split.
        size: height and width in pixels.

    Returns:
        Dicts with ``file_name``, ``sem_seg_file_name``, ``height`` and ``width``.

    Raises:
        DatasetError: no such split, or the cache folder can not be written.
    """
    if split not in SPLITS:
        raise DatasetError(f"the generated dataset has no split {split!r}; {' or '.join(SPLITS)}")
    seed, all_scenes = SPLITS[split]
    height, width = size
    manifest = {
        "drawn_by": fingerprint(),
        "seed": seed,
        "count": all_scenes if count is None else count,
        "height": height,
        "width": width,
    }
    name = "-".join(str(value) for value in manifest.values())
    folder = cache_root() / "generated" / f"{split}-{name}"
    if not _is_complete(folder, manifest):
        try:
            _draw_split(folder, manifest)
        except OSError as error:
            raise DatasetError(
                f"cannot write the generated scenes to {folder}: {error}; set {CACHE_VARIABLE} "
                "to a folder that can be written"
            ) from error
    return [
        {
            "file_name": str(folder / "images" / f"{index:05d}.png"),
            "sem_seg_file_name": str(folder / "labels" / f"{index:05d}.png"),
            "height": height,
            "width": width,
        }
        for index in range(manifest["count"])
    ]


def _is_complete(folder: Path, manifest: dict) -> bool:
    try:
        if json.loads((folder / _MANIFEST).read_text()) != manifest:
            return False
        return all(
            len(os.listdir(folder / kind)) == manifest["count"] for kind in ("images", "labels")
        )
    except (OSError, ValueError):
        return False


def _draw_split(folder: Path, manifest: dict) -> None:
    """Draw into a temporary folder beside `folder`, then move it there in one step."""
    start = time.perf_counter()
    logger.info("Drawing %d scenes into %s (once)", manifest["count"], folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        work.chmod(0o755)  # mkdtemp's 0700 would hide a shared cache from other users
        for kind in ("images", "labels"):
            (work / kind).mkdir()
        size = manifest["height"], manifest["width"]
        for index in range(manifest["count"]):
            image, labels = draw_scene(manifest["seed"], index, size)
            for kind, array in (("images", image), ("labels", labels)):
                path = work / kind / f"{index:05d}.png"
                with naming(path):
                    Image.fromarray(array).save(path, compress_level=1)
        replace_text(work / _MANIFEST, json.dumps(manifest))
        if folder.exists() and not _is_complete(folder, manifest):
            # Damaged, for instance by a cleaner of old files: out of the way, then away.
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
    logger.info("Drew %d scenes in %.0f s", manifest["count"], time.perf_counter() - start)
