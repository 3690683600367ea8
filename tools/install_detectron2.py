#!/usr/bin/env python
"""Install Detectron2 0.6 without a compiler, or from source with --source.

Detectron2 has no official release on the package registry. The registry has `pb1-detectron2`, a
re-upload of the official v0.6 sources without the C++/CUDA files. This script checks its SHA-256,
patches it for newer NumPy, Pillow and PyTorch, replaces the compiled module by a placeholder, and
installs the result as the wheel `detectron2 0.6+hiera.1`. Operators without a Python implementation
(rotated boxes, deformable convolution) raise an error when they are used.

If Detectron2 is installed already, the script changes nothing.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SDIST = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
VERSION = "0.6+hiera.1"
UPSTREAM = "git+https://github.com/facebookresearch/detectron2.git"

# Detectron2 installs these projects in detectron2/projects/
PROJECTS = ("DeepLab/deeplab", "Panoptic-DeepLab/panoptic_deeplab", "PointRend/point_rend")

# The requirements of Detectron2 without upper pins, without `black` (optional in LazyConfig.to_py),
# and without `future` and `pydot` (only used by the Caffe2 export). setuptools 81 has no
# pkg_resources, which detectron2.model_zoo imports.
REQUIREMENTS = (
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
    "setuptools<81",
)

PYPROJECT = """\
[build-system]
requires = ["setuptools>=64"]
build-backend = "setuptools.build_meta"

[project]
name = "detectron2"
version = "{version}"
description = "Detectron2 v0.6 without its compiled module, patched for current libraries"
license = {{ text = "Apache-2.0" }}
requires-python = ">=3.8"
dependencies = [{dependencies}]

[project.urls]
Homepage = "https://github.com/facebookresearch/detectron2"

[tool.setuptools.packages.find]
include = ["detectron2*"]
namespaces = false

[tool.setuptools.package-data]
"detectron2.model_zoo" = ["configs/**/*.yaml", "configs/**/*.py"]
"""

COMPILED_MODULE = '''\
"""Replace the compiled module of Detectron2, which this build does not have."""

import torch


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def absent(*args, **kwargs):
        raise NotImplementedError(
            f"detectron2._C.{name} is compiled code, which this pure-Python build of Detectron2 "
            "does not have; for rotated boxes and deformable convolution build it from source "
            "(pip uninstall detectron2, then tools/install_detectron2.py --source git+https://...)"
        )

    return absent


def has_cuda():
    return False


# detectron2.utils.collect_env prints these two
def get_compiler_version():
    return "none (pure-Python build)"


def get_cuda_version():
    return "none (pure-Python build)"


# Detectron2 uses this one as a registered operator
torch.ops.detectron2.nms_rotated = __getattr__("nms_rotated")
'''

# PyTorch no longer has Caffe2, but detectron2.utils.analysis needs the rest of this package
WITHOUT_CAFFE2 = """\
try:
    from .api import *
except ImportError:
    pass
"""

COCO_EVALUATION = '''\
"""Use pycocotools, because the COCO evaluation of Detectron2 needs the compiled module."""

from pycocotools.cocoeval import COCOeval

COCOeval_opt = COCOeval
'''


class InstallError(Exception):
    """Raised if an installation fails; the message is one line with a remedy."""


def installed_detectron2() -> str | None:
    """Return the version and folder of the installed Detectron2, or None.

    Raises:
        InstallError: Detectron2 is installed, but cannot be imported.
    """
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        return None
    place = Path(spec.origin).parent if spec.origin else next(iter(spec.submodule_search_locations))
    try:
        version = importlib.import_module("detectron2").__version__
    except Exception as error:
        raise InstallError(
            f"there is a Detectron2 in {place} that cannot be imported "
            f"({type(error).__name__}: {error}); install what it lacks or uninstall it first"
        ) from error
    try:
        version = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        pass  # a source tree on PYTHONPATH has no metadata
    return f"Detectron2 {version} in {place}"


def check_interpreter() -> None:
    """Raise InstallError if a package is missing without which Detectron2's setup.py cannot run."""
    for module, package in (
        ("torch", "torch"),
        ("torchvision", "torchvision"),
        ("setuptools", "'setuptools>=64,<81' wheel"),
    ):
        if importlib.util.find_spec(module) is None:
            raise InstallError(
                f"{module} is not installed for {sys.executable}; install it first, for example "
                f"{sys.executable} -m pip install {package}"
            )


def pip(*arguments: str | os.PathLike, verbose: bool) -> None:
    """Run pip with this interpreter; print what it printed if verbose.

    Raises:
        subprocess.CalledProcessError: if pip fails; its `output` is what pip printed.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    # Without questions, which nobody would answer in CI
    result = subprocess.run(
        [*command, "--no-input"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    if verbose:
        print(result.stdout)
    if result.returncode != 0:
        raise subprocess.CalledProcessError(result.returncode, command, result.stdout)


def reason(error: subprocess.CalledProcessError) -> str:
    """Return the last error line of pip, git or the compiler."""
    named = re.findall(r"^\s*(?:error|fatal): (.+)", error.output, re.IGNORECASE | re.MULTILINE)
    # pip ends with a bare code such as `subprocess-exited-with-error`
    telling = [line for line in named if " " in line.strip()]
    lines = telling or named or error.output.strip().splitlines() or [f"pip: {error.returncode}"]
    return lines[-1].strip().rstrip(".")


def download_sdist(folder: Path, *, verbose: bool) -> Path:
    """Download the checked source archive into a folder and return its path."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{SDIST} --hash=sha256:{SHA256}\n")
    try:
        # After checking the hash, pip runs the archive's setup.py for its metadata. It imports
        # torch, so the build must not be isolated.
        pip(
            *("download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"),
            *("--dest", folder, "-r", requirement),
            verbose=verbose,
        )
    except subprocess.CalledProcessError as error:
        found = re.search(r"Got\s+([0-9a-f]{64})", error.output)
        if found:
            raise InstallError(
                f"the archive of {SDIST} has SHA-256 {found[1]}, expected {SHA256}; "
                "nothing of it was run; check the source of your package index"
            ) from error
        raise InstallError(
            f"cannot download {SDIST}: {reason(error)} (-v shows all). Check the network and pip's "
            f"index settings, or build from source with --source {UPSTREAM}"
        ) from error
    return next(folder.glob("*.tar.gz"))


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a source archive and return the folder that holds its setup.py."""
    with tarfile.open(archive) as tar:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(folder, **safely)
    return next(folder.glob("*/setup.py")).parent


def replace(file: Path, pattern: str, replacement: str) -> int:
    """Replace a regular expression in a file and return how often it was found."""
    text, count = re.subn(pattern, replacement, file.read_text(encoding="utf-8"))
    if count:
        file.write_text(text, encoding="utf-8")
    return count


def patch(source: Path) -> None:
    """Turn the unpacked sources of v0.6 into those of the pure-Python wheel, in place.

    Raises:
        InstallError: the sources are not those of v0.6.
    """
    package = source / "detectron2"
    for project in PROJECTS:
        shutil.copytree(source / "projects" / project, package / "projects" / Path(project).name)

    # Pillow 10 removed Image.LINEAR, NumPy 1.24 its aliases of Python's types
    transform = package / "data" / "transforms" / "transform.py"
    fixed_pillow = replace(transform, r"\bImage\.LINEAR\b", "Image.BILINEAR")
    fixed_numpy = sum(
        replace(file, r"\bnp\.(bool|int|float|object|str)\b", r"\1")
        for file in package.rglob("*.py")
    )
    export = package / "export" / "__init__.py"
    fixed_export = replace(export, r"from \.api import \*\n", WITHOUT_CAFFE2)
    if not (fixed_pillow and fixed_numpy and fixed_export):
        raise InstallError(f"{source} does not hold the sources of Detectron2 0.6")

    (package / "_C.py").write_text(COMPILED_MODULE)
    (package / "evaluation" / "fast_eval_api.py").write_text(COCO_EVALUATION)

    # setup.py would compile; pyproject.toml alone does not
    (source / "setup.py").unlink()
    dependencies = ", ".join(f'"{requirement}"' for requirement in REQUIREMENTS)
    (source / "pyproject.toml").write_text(
        PYPROJECT.format(version=VERSION, dependencies=dependencies)
    )


def build_wheel(folder: Path, *, verbose: bool) -> Path:
    """Download, patch and build; return the path of the wheel in `folder`."""
    with tempfile.TemporaryDirectory(prefix="detectron2-") as scratch:
        source = unpack(download_sdist(Path(scratch), verbose=verbose), Path(scratch))
        patch(source)
        try:
            pip(
                *("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source),
                verbose=verbose,
            )
        except subprocess.CalledProcessError as error:
            raise InstallError(f"cannot build the wheel: {reason(error)} (-v shows all)") from error
    return next(folder.glob("detectron2-*.whl"))


def install(target: str | Path, *options: str, verbose: bool) -> None:
    """Install a wheel or a source archive with its requirements."""
    try:
        pip("install", *options, target, verbose=verbose)
    except subprocess.CalledProcessError as error:
        raise InstallError(f"cannot install {target}: {reason(error)} (-v shows all)") from error


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--source",
        metavar="URL",
        help=f"compile and install this source instead, for example {UPSTREAM}",
    )
    choice.add_argument(
        "--wheel-only",
        metavar="DIR",
        type=Path,
        help="write the wheel to DIR, for machines without network, and install nothing",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print the output of pip")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        found = None if args.wheel_only else installed_detectron2()
        if found:
            print(f"{found} is installed already; nothing was changed")
            return 0
        check_interpreter()
        if args.source:
            install(args.source, "--no-build-isolation", verbose=args.verbose)
        elif args.wheel_only:
            print(build_wheel(args.wheel_only, verbose=args.verbose))
            return 0
        else:
            with tempfile.TemporaryDirectory(prefix="detectron2-wheel-") as folder:
                install(build_wheel(Path(folder), verbose=args.verbose), verbose=args.verbose)
        importlib.invalidate_caches()
        print(f"installed {installed_detectron2()}")
    except InstallError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
