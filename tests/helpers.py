"""What tests of several rooms share: processes, code of pages, configs and small datasets."""

import json
import logging
import os
import re
import runpy
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg import Hierarchy, add_hiera_seg_config
from hiera_seg.data import HieraDatasetMapper  # also registers the datasets of the package

REPOSITORY = Path(__file__).resolve().parents[1]
TOOLS = REPOSITORY / "tools"
CONFIGS = REPOSITORY / "configs"
_BLOCK = re.compile(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', flags=re.MULTILINE | re.DOTALL)


def memory_of_process(field: str) -> int:
    """A field of /proc/self/status in bytes; ru_maxrss would include the peak of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def run_python(
    *arguments: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """Run Python in a process that finds this package, wherever it is started."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )


def run_script(
    script: Path,
    *arguments: object,
    cwd: Path | None = None,
    prepare: Callable[[], object] = lambda: None,
    **environment: str,
) -> subprocess.CompletedProcess:
    """Run a script in a fork of this process, which has imported what takes seconds to import.

    It must not start processes that begin with the main module, as torch.multiprocessing does.
    """
    command = [str(script), *map(str, arguments)]
    pipes = [os.pipe(), os.pipe()]
    child = os.fork()
    if child == 0:
        for descriptor, pipe in zip((1, 2), pipes, strict=True):
            os.dup2(pipe[1], descriptor)
            os.close(pipe[0]), os.close(pipe[1])
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
        code = 1
        try:
            os.environ.update({"PYTHONPATH": str(REPOSITORY), **environment})
            os.chdir(cwd or os.getcwd())
            torch.cuda.is_available = lambda: False  # a fork cannot use the GPU of its parent
            sys.argv = command
            sys.path.insert(0, str(Path(script).resolve().parent))
            forget_datasets(_OF_PACKAGES)
            for logger in logging.Logger.manager.loggerDict.values():
                if isinstance(logger, logging.Logger):
                    logger.handlers.clear()  # of other tests' log files
            prepare()
            code = _run_as_main(command[0])
        finally:
            os._exit(code)
    for _, end in pipes:
        os.close(end)
    with ThreadPoolExecutor(2) as pool:
        out, err = pool.map(_read_to_the_end, (start for start, _ in pipes))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return subprocess.CompletedProcess(command, code, out, err)


def _read_to_the_end(descriptor: int) -> str:
    with open(descriptor, "rb") as file:
        return file.read().decode()


def _run_as_main(script: str) -> int:
    warnings.simplefilter("ignore")
    code: object = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def registered_datasets() -> list[tuple]:
    """Return the catalogs of Detectron2, each with the names in it."""
    return [(catalog, set(catalog.list())) for catalog in (DatasetCatalog, MetadataCatalog)]


def forget_datasets(before: list[tuple]) -> None:
    """Remove what was registered since, except for the names of this package and its projects."""
    for catalog, names in before:
        for name in set(catalog.list()) - names:
            if not name.startswith("hiera_"):  # registered once, when a module is imported
                catalog.remove(name)


_OF_PACKAGES = registered_datasets()


def read_page(page: str) -> str:
    """Return the text of a page, such as ``docs/losses.md``."""
    return (REPOSITORY / page).read_text(encoding="utf-8")


def page_blocks(page: str) -> list[tuple[str, str, str]]:
    """Return language, title and text of all code blocks of a page."""
    return _BLOCK.findall(read_page(page))


def code_blocks(page: str, language: str, title: str = "") -> list[str]:
    """Return the code blocks of one language and title on a page."""
    return [text for *key, text in page_blocks(page) if key == [language, title]]


def run_code(page: str, *blocks: str, names: dict | None = None) -> dict:
    """Run code blocks of a page, by default all of its Python; return the names that they set."""
    names = {} if names is None else names
    for block in blocks or code_blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    return names


def report_data(page: Path) -> dict:
    """Return the data in the html file of a report."""
    start = '<script type="application/json" id="report-data">'
    return json.loads(
        page.read_text(encoding="utf-8").partition(start)[2].partition("</script>")[0]
    )


def new_config(*options: object) -> CfgNode:
    """Return the default config with keys and values set."""
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    cfg.merge_from_list(list(options))
    return cfg


def value_and_gradient(
    function: Callable[..., torch.Tensor],
    values: torch.Tensor,
    *arguments: object,
    **options: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the value of a loss and its gradient with respect to logits or embeddings."""
    values = values.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = function(values, *arguments, **options)
    value.backward()
    return value.detach(), values.grad


def write_dataset(
    folder: Path,
    labels: Mapping[str, np.ndarray] | Sequence[np.ndarray],
    images: Mapping[str, np.ndarray] | None = None,
) -> dict[str, str]:
    """Write pairs of png files by stem; without `images`, images are made of the labels' values.

    Returns:
        image_root and sem_seg_root, as register_hierarchical_dataset takes them.
    """
    if not isinstance(labels, Mapping):
        labels = {str(index): label for index, label in enumerate(labels)}
    roots = folder / "images", folder / "labels"
    for stem, label in labels.items():
        image = (images or {}).get(stem)
        if image is None:
            image = np.stack([label, label * 3 % 251, label * 7 % 251], -1).astype(np.uint8)
        for root, array in zip(roots, (image, label), strict=True):
            path = root / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return {"image_root": str(roots[0]), "sem_seg_root": str(roots[1])}


def plain_mapper(
    hierarchy: Hierarchy, augmentations: Sequence = (), **options: object
) -> HieraDatasetMapper:
    """Return a mapper to RGB images and node ids of a tree, for training without augmentations."""
    options = {"ignore_label": 255, "image_format": "RGB", **options}
    return HieraDatasetMapper(True, hierarchy=hierarchy, augmentations=augmentations, **options)
