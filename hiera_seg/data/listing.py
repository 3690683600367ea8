"""Listing the files of a dataset when it is used: pairs of folders, json files, callables."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager

from hiera_seg.data.array_files import ARRAY_TYPES
from hiera_seg.data.files import refuse_download
from hiera_seg.data.json_files import refuse_annotations
from hiera_seg.errors import DatasetError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_LOSSY_SUFFIXES = (".jpg", ".jpeg")
_PATH_KEYS = {"file_name", "sem_seg_file_name"}
_SHOWN = 5  # files that an error names before it only counts


class UnpairedFilesError(DatasetError):
    """Images without labels, or labels without images.

    Attributes:
        records: the dicts of the files that do pair.
        unpaired: the paths that do not.
    """

    records: list[dict] = []
    unpaired: list[str] = []


def expand_root(root: str | os.PathLike) -> str:
    """A folder with ``~`` and environment variables replaced.

    ``$DETECTRON2_DATASETS`` stands for ``datasets`` where the variable is not set.
    """
    root = os.fspath(root)
    if not os.environ.get("DETECTRON2_DATASETS"):
        for form in ("$DETECTRON2_DATASETS", "${DETECTRON2_DATASETS}"):
            root = root.replace(form, "datasets")
    return os.path.expandvars(os.path.expanduser(root))


def pair_files(
    image_root: str | os.PathLike,
    sem_seg_root: str | os.PathLike | None,
    *,
    image_suffix: str = "",
    label_suffix: str = "",
) -> list[dict]:
    """List the images below one folder with the label files below another, at any depth.

    An image and a label belong together when their paths below the roots are the same without
    file suffix; what is left over is paired by file stem, where only one file of each side has it.
    Links to folders are followed, and a folder that several links reach is listed once. In one
    folder for both, a suffix tells images and labels apart, else the file type (JPEG images).

    Args:
        image_root: folder of the images.
        sem_seg_root: folder of the labels; None lists images alone.
        image_suffix: ending of the stem of every image, cut off for the comparison; files
            without it are passed over ("_leftImg8bit" in Cityscapes).
        label_suffix: the same for the labels ("_mask"). A file of one folder for both that ends
            with both suffixes belongs to the longer one.

    Returns:
        Dicts with ``file_name`` and ``sem_seg_file_name``, sorted by file name.

    Raises:
        DatasetError: a folder is missing or has no such file, or two files have one name.
        UnpairedFilesError: an image has no label or a label no image.
    """
    image_dir, label_dir = expand_root(image_root), sem_seg_root and expand_root(sem_seg_root)
    same = label_dir is not None and os.path.realpath(image_dir) == os.path.realpath(label_dir)
    by_suffix, by_type = (
        same and image_suffix != label_suffix,
        same and image_suffix == label_suffix,
    )
    images = _list_files(
        "image", image_root, image_suffix, _LOSSY_SUFFIXES if by_type else _IMAGE_SUFFIXES,
        label_dir, label_suffix if by_suffix else "",
    )  # fmt: skip
    if label_dir is None:
        return [{"file_name": path} for _, path in sorted(images.items())]
    label_types = tuple(s for s in _IMAGE_SUFFIXES if s not in _LOSSY_SUFFIXES or not by_type)
    label_types += ARRAY_TYPES
    labels = _list_files(
        "label", sem_seg_root, label_suffix, label_types, image_dir,
        image_suffix if by_suffix else "",
    )  # fmt: skip

    pairs = {key: key for key in images if key in labels}
    images_by_stem = _by_stem(key for key in images if key not in pairs)
    labels_by_stem = _by_stem(key for key in labels if key not in pairs)
    for stem, keys in images_by_stem.items():
        if len(keys) == len(labels_by_stem.get(stem, ())) == 1:
            pairs[keys[0]] = labels_by_stem[stem][0]
    records = [
        {"file_name": images[key], "sem_seg_file_name": labels[pairs[key]]}
        for key in sorted(images)
        if key in pairs
    ]

    no_label = sorted(images[key] for key in images if key not in pairs)
    used = set(pairs.values())
    no_image = sorted(labels[key] for key in labels if key not in used)
    if no_label or no_image:
        parts = []
        if no_label:
            parts.append(f"{_count(no_label, 'image')} without a label: {_first(no_label)}")
        if no_image:
            parts.append(f"{_count(no_image, 'label')} without an image: {_first(no_image)}")
        error = UnpairedFilesError(
            f"{'; '.join(parts)} (images below {image_dir}, labels below {label_dir}, paired by "
            "name without suffix)"
        )
        error.records, error.unpaired = records, no_label + no_image
        raise error
    return records


def pair_listed(
    list_file: str | os.PathLike,
    image_root: str | os.PathLike,
    sem_seg_root: str | os.PathLike,
    *,
    image_type: str = ".jpg",
    label_type: str = ".png",
) -> list[dict]:
    """List the images and labels that a text file names, one file stem a line.

    Only the first word of a line counts: some lists have further columns.

    Args:
        list_file: the text file.
        image_root: folder of the images; a stem may hold folders below it.
        sem_seg_root: folder of the labels.
        image_type: file suffix of the images.
        label_type: the same for the labels.

    Returns:
        Dicts with ``file_name`` and ``sem_seg_file_name``, in the order of the list.

    Raises:
        DatasetError: the list or a folder is missing, or the list is empty or names a file twice.
        UnpairedFilesError: an image or a label that the list names is missing.
    """
    stems = read_list(list_file)
    folders = {"image": expand_root(image_root), "label": expand_root(sem_seg_root)}
    for (what, folder), root in zip(folders.items(), (image_root, sem_seg_root), strict=True):
        if not os.path.isdir(folder):
            raise DatasetError(f"{what} folder not found: {folder}{_hint(os.fspath(root))}")
    records, missing = [], {"image": [], "label": []}
    for stem in stems:
        image = os.path.join(folders["image"], stem + image_type)
        label = os.path.join(folders["label"], stem + label_type)
        has_image, has_label = os.path.isfile(image), os.path.isfile(label)
        if has_image and has_label:
            records.append({"file_name": image, "sem_seg_file_name": label})
        if not has_image:
            missing["image"].append(image)
        if not has_label:
            missing["label"].append(label)
    if missing["image"] or missing["label"]:
        parts = [
            f"{_count(paths, what)} of {len(stems)} not found: {_first(paths)}"
            for what, paths in missing.items()
            if paths
        ]
        error = UnpairedFilesError(f"{'; '.join(parts)} (named in {expand_root(list_file)})")
        error.records, error.unpaired = records, missing["image"] + missing["label"]
        raise error
    return records


class Listing:
    """Lists a dataset on call. A class, not a closure: it can be pickled into a new process."""

    def __init__(
        self,
        name: str,
        source: Any,
        image_root: str | None = None,
        sem_seg_root: str | None = None,
        **suffixes: str,
    ) -> None:
        self.name = name
        self.source = source
        self.image_root = image_root
        self.sem_seg_root = sem_seg_root
        self.suffixes = suffixes  # image_suffix and label_suffix of pair_files

    def __call__(self) -> list[dict]:
        origin = ""
        try:
            if self.source is None:
                records = pair_files(self.image_root, self.sem_seg_root, **self.suffixes)
            elif callable(self.source):
                records = list(self.source())
            elif isinstance(self.source, list):
                records = self._below_roots(self.source)
            else:
                origin = expand_root(self.source)
                records = self._read_json(origin)
            return self._finish(records, origin)
        except DatasetError as error:
            # The same error object, so that it keeps its attributes.
            error.args = (f"dataset {self.name!r}: {error}",)
            if isinstance(error, UnpairedFilesError):
                error.records = self._finish(error.records) if error.records else []
            raise

    def _finish(self, records: list[dict], origin: str = "") -> list[dict]:
        """Checked copies with this dataset's name; ``origin`` is the file that they come from."""
        if not records:
            raise DatasetError(f"{origin} holds an empty list" if origin else "lists no images")
        finished = []
        for index, record in enumerate(records):
            entry = f"{origin}, entry {index}" if origin else f"entry {index}"
            if not isinstance(record, Mapping) or not _is_path(record.get("file_name")):
                raise DatasetError(f"{entry}: no dict with a 'file_name'")
            # A dict that another dataset has listed carries that one's name: ours has to win.
            record = {**record, "dataset_name": self.name}
            if record.get("sem_seg_file_name") is None:
                record.pop("sem_seg_file_name", None)
            elif not _is_path(record["sem_seg_file_name"]):
                raise DatasetError(
                    f"{entry}: 'sem_seg_file_name' is {record['sem_seg_file_name']!r}; a path is "
                    "wanted, or null where there is no label"
                )
            for key in _PATH_KEYS & record.keys():
                record[key] = os.fspath(record[key])
                refuse_download(record[key], f"{entry}: {key!r} is ")
            finished.append(record)
        return finished

    def _read_json(self, path: str) -> list[dict]:
        try:
            with PathManager.open(path, "r") as file:
                records = json.load(file)
        except FileNotFoundError as error:
            raise DatasetError(f"json file not found: {path}{_hint(os.fspath(self.source))}") from (
                error
            )
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"cannot read {path}: {error}") from error
        except json.JSONDecodeError as error:
            raise DatasetError(
                f"{path}, line {error.lineno}: not valid json: {error.msg}"
            ) from error
        except RecursionError as error:
            raise DatasetError(
                f"{path}: its brackets are nested too deeply; a list of dicts with 'file_name' and "
                "'sem_seg_file_name' is expected"
            ) from error
        if not isinstance(records, list):
            refuse_annotations(records, path)
            raise DatasetError(
                f"{path} holds a {type(records).__name__}; a list of dicts with 'file_name' and "
                "'sem_seg_file_name' is wanted"
            )
        return self._below_roots(records, os.path.dirname(path), f"{path}, ")

    def _below_roots(self, records: list, here: str = "", where: str = "") -> list:
        """Copies of dicts with their paths joined to the roots, or to `here` without a root."""
        roots = {
            "file_name": expand_root(self.image_root) if self.image_root else here,
            "sem_seg_file_name": expand_root(self.sem_seg_root) if self.sem_seg_root else here,
        }
        joined = []
        for index, record in enumerate(records):
            if isinstance(record, Mapping):
                paths = {k: record[k] for k in roots if _is_path(record.get(k))}
                for key, value in paths.items():
                    refuse_download(value, f"{where}entry {index}: {key!r} is ")
                    paths[key] = os.path.join(roots[key], value)
                record = {**record, **paths}
            joined.append(record)
        return joined


def read_list(list_file: str | os.PathLike) -> list[str]:
    """The first word of every line of a text file that lists files.

    Raises:
        DatasetError: the file is missing, not text or empty, or has a word twice.
    """
    path = expand_root(list_file)
    try:
        with PathManager.open(path, "r") as file:
            lines = [line.split() for line in file]
    except FileNotFoundError as error:
        raise DatasetError(f"list of files not found: {path}{_hint(os.fspath(list_file))}") from (
            error
        )
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the list of files {path}: {error}") from error
    first_line: dict[str, int] = {}
    for number, words in enumerate(lines, 1):
        if words and first_line.setdefault(words[0], number) != number:
            raise DatasetError(
                f"{path}, line {number}: {words[0]!r} stands in line {first_line[words[0]]} already"
            )
    if not first_line:
        raise DatasetError(f"the list of files {path} is empty")
    return list(first_line)


def walk_folders(root: str, skip: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Walk through a folder and those below it, each once even where links lead to it again.

    Folders come before links, so that a folder is found under its own path. Hidden folders are
    left out, and links to a folder that holds the root.

    Args:
        root: where to start.
        skip: the real path of a folder to leave out.

    Yields:
        The path of a folder and the names of its files.
    """
    visited = {skip, *map(str, Path(os.path.realpath(root)).parents)}
    waiting = [root]
    while waiting:
        links = []
        for parent, folders, files in os.walk(waiting.pop(0)):
            real = os.path.realpath(parent)
            if real in visited and parent != root:
                folders.clear()
                continue
            visited.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = (os.path.join(parent, name) for name in folders)
            links += [path for path in paths if os.path.islink(path)]
            yield parent, files
        waiting += links


def _list_files(
    what: str,
    root: Any,
    stem_suffix: str,
    types: tuple[str, ...],
    other_dir: str | None,
    other_suffix: str,
) -> dict[str, str]:
    """{path below the root, without suffixes: path} of the files of the given types.

    Files whose stem ends with `other_suffix` are the other side's, if that is the longer suffix.
    """
    folder = expand_root(root)
    if not os.path.isdir(folder):
        raise DatasetError(f"{what} folder not found: {folder}{_hint(os.fspath(root))}")
    # Where one root lies inside the other, its files are not the other's.
    other = other_dir and os.path.realpath(other_dir)
    is_longer = len(other_suffix) > len(stem_suffix)
    found: dict[str, str] = {}
    for parent, files in walk_folders(folder, other):
        for file in files:
            stem, suffix = os.path.splitext(file)
            if (
                file.startswith(".")
                or suffix.lower() not in types
                or not stem.endswith(stem_suffix)
                or (is_longer and stem.endswith(other_suffix))
            ):
                continue
            path = os.path.join(parent, file)
            key = os.path.relpath(os.path.join(parent, stem), folder)
            key = key.removesuffix(stem_suffix).replace(os.sep, "/")
            if key in found:
                raise DatasetError(f"two {what} files have one name: {found[key]} and {path}")
            found[key] = path
    if not found:
        wanted = " ".join(f"*{stem_suffix}{suffix}" for suffix in types)
        raise DatasetError(f"no {what} files ({wanted}) below {folder}{_hint(os.fspath(root))}")
    return found


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _hint(root: str) -> str:
    if "DETECTRON2_DATASETS" not in root:
        return ""
    value = os.environ.get("DETECTRON2_DATASETS")
    now = f"is {value!r}" if value else "is not set, which means 'datasets' in the current folder"
    return f" (DETECTRON2_DATASETS {now}; set it to the folder that holds the datasets)"


def _by_stem(keys: Iterable[str]) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = {}
    for key in keys:
        stems.setdefault(key.rsplit("/", 1)[-1], []).append(key)
    return stems


def _count(paths: list[str], what: str) -> str:
    return f"{len(paths)} {what}{'s' * (len(paths) != 1)}"


def _first(paths: list[str]) -> str:
    return ", ".join(paths[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")
