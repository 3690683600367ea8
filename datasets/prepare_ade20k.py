#!/usr/bin/env python
"""Copy ADE20K's scene parsing release to the folder of hiera_seg, and check its classes."""

import argparse
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from hiera_seg.cli.arguments import tool_parser
from hiera_seg.cli.exit import exit_on_error
from hiera_seg.data.datasets.ade20k import ROOT, SPLITS
from hiera_seg.data.listing import expand_root, pair_files
from hiera_seg.disk import naming
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy

EPILOG = """
ADEChallengeData2016 has {images,annotations}/{training,validation}/ and objectInfo150.txt. The
files are taken as they are, from the zip or from a folder; the class table is compared with the
tree ade20k_150, and images are paired with their labels (20210 and 2000).

example:
  datasets/prepare_ade20k.py --release ADEChallengeData2016.zip
"""
FOLDERS = tuple(
    f"{what}/{split}" for what in ("images", "annotations") for split in SPLITS.values()
)
TABLE = "objectInfo150.txt"


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument(
        "--release", required=True, type=Path, help="ADEChallengeData2016.zip, or its folder"
    )
    parser.add_argument(
        "--out",
        default=ROOT,
        help="default: ADEChallengeData2016 below $DETECTRON2_DATASETS, else ./datasets",
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    out = Path(expand_root(args.out))
    if args.release.is_dir():
        copy(args.release, out)
    else:
        unpack(args.release, out)
    check_classes(out / TABLE)
    for ours, theirs in SPLITS.items():
        pairs = pair_files(out / "images" / theirs, out / "annotations" / theirs)
        print(f"{len(pairs)} images of {ours} in {out}")


def copy(release: Path, out: Path) -> None:
    """Copy the needed files of a folder, unless it is the output folder itself."""
    for name in FOLDERS:
        if not (release / name).is_dir():
            raise DatasetError(f"folder not found: {release / name}")
    if release.resolve() == out.resolve():
        return
    for name in FOLDERS:
        shutil.copytree(release / name, out / name, dirs_exist_ok=True)
    if (release / TABLE).is_file():
        shutil.copyfile(release / TABLE, out / TABLE)


def unpack(release: Path, out: Path) -> None:
    """Write the needed files of the zip below the folder."""
    try:
        with zipfile.ZipFile(release) as archive:
            wanted = {}
            for info in archive.infolist():
                name = PurePosixPath(info.filename)
                inner = str(PurePosixPath(*name.parts[1:]))  # below the release's own folder
                is_table = inner == TABLE
                if not info.is_dir() and (is_table or str(PurePosixPath(inner).parent) in FOLDERS):
                    wanted[inner] = info
            for folder in FOLDERS:
                if not any(inner.startswith(f"{folder}/") for inner in wanted):
                    raise DatasetError(f"{release} has no file in ADEChallengeData2016/{folder}/")
            for inner, info in tqdm(wanted.items(), disable=None):
                (out / inner).parent.mkdir(parents=True, exist_ok=True)
                with naming(out / inner):
                    (out / inner).write_bytes(archive.read(info))
    except FileNotFoundError as error:
        raise DatasetError(f"no such zip or folder: {release}") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError(f"cannot unpack {release}: {error}") from error


def check_classes(path: Path) -> None:
    """Compare the release's table (number, shares, names of each class) with the tree's leaves."""
    try:
        lines = path.read_text().splitlines()[1:]
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    leaves = Hierarchy.load("ade20k_150").leaf_names
    found = [line.rstrip().split("\t") for line in lines if line.strip()]
    for number, cells in enumerate(found, 2):
        names = cells[-1].split(", ")
        index = int(cells[0]) if cells[0].strip().isdecimal() else 0
        if not 1 <= index <= len(leaves) or names[0] != leaves[index - 1]:
            ours = leaves[index - 1] if 1 <= index <= len(leaves) else "no class"
            raise DatasetError(
                f"{path}, line {number}: class {cells[0]} is {names[0]!r}, in the tree {ours!r}"
            )
    if len(found) != len(leaves):
        raise DatasetError(f"{path} lists {len(found)} classes, the tree has {len(leaves)}")


if __name__ == "__main__":
    exit_on_error(main, parse_args())
