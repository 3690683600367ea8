"""List image and label files in folders, and pair them by name."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from detectron2.utils.file_io import PathManager

from hiera_seg.data.array_files import ARRAY_TYPES
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy.messages import listing

IMAGE_TYPES = (".bmp", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_LOSSY_TYPES = (".jpg", ".jpeg")


class UnpairedFilesError(DatasetError):
    """Raised for images without labels, and for labels without images.

    Attributes:
        records: the dicts of the files that were paired.
    """

    def __init__(self, message: str, records: Sequence[dict] = ()) -> None:
        super().__init__(message)
        self.records = list(records)


def expand_root(root: str | os.PathLike) -> str:
    """Return a path with ``~`` and environment variables replaced.

    ``$DETECTRON2_DATASETS`` is replaced by ``datasets`` if the variable is not set.
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
    image_glob: str = "",
    split_file: str | os.PathLike | None = None,
) -> list[dict]:
    """List the images below one folder with the label files below another, at any depth.

    An image and a label belong together if their paths below the roots, without file type and
    suffix, are equal. The remaining files are paired by file stem if only one image and one label
    have it. Links to folders are followed, and a folder with several links to it is listed once. If
    both roots are the same folder, images and labels are distinguished by `image_glob` or a suffix,
    or else by file type (images are JPEG files).

    Args:
        image_root: folder of the images.
        sem_seg_root: folder of the labels; None lists images alone.
        image_suffix: ending of the stem of every image, removed for the comparison; files without
            it are ignored ("_leftImg8bit" in Cityscapes).
        label_suffix: the same for the labels ("_mask"). If both roots are the same folder, a file
            that ends with both suffixes belongs to the longer one.
        image_glob: shell pattern for the paths of images below `image_root`, such as
            "*/rgb/*.png"; ``*`` matches "/" too.
        split_file: text file that names the images of a split, one stem or path per line, with or
            without folders, suffix and file type. A line fits an image if one of their paths ends
            with the other. Columns after the first word are ignored, if no image has the name of
            the whole line. Other images and labels are ignored.

    Returns:
        Dicts with ``file_name`` and ``sem_seg_file_name``, sorted by file name, or in the order of
        `split_file`.

    Raises:
        DatasetError: a folder or the split file is missing or empty, two files have the same name,
            a line fits several images, or two lines fit one image.
        UnpairedFilesError: an image has no label, a label no image, or a line no image.
    """
    image_dir, label_dir = expand_root(image_root), sem_seg_root and expand_root(sem_seg_root)
    one_folder = bool(label_dir) and os.path.realpath(image_dir) == os.path.realpath(label_dir)

    def is_image(path: str) -> bool:
        stem, kind = os.path.splitext(path)
        if not stem.endswith(image_suffix) or (image_glob and not fnmatch(path, image_glob)):
            return False
        if not one_folder or image_glob:
            return True
        if image_suffix == label_suffix:
            return kind.lower() in _LOSSY_TYPES
        return len(label_suffix) < len(image_suffix) or not stem.endswith(label_suffix)

    def is_label(path: str) -> bool:
        stem, _ = os.path.splitext(path)
        return stem.endswith(label_suffix) and not (one_folder and is_image(path))

    images = _list_files("image", image_root, image_suffix, is_image, label_dir)
    labels = {}
    if label_dir:
        labels = _list_files("label", sem_seg_root, label_suffix, is_label, image_dir)
    if not images or (label_dir and not labels):
        what, root = ("label", sem_seg_root) if images else ("image", image_root)
        pattern = f"*{label_suffix}" if images else image_glob or f"*{image_suffix}"
        hint = root_hint(root)
        if one_folder:
            hint += _suffix_question(labels.values(), labels.values()) or (
                "; if it holds images and labels, specify image_glob, image_suffix or label_suffix"
            )
        elif label_dir:
            hint += _suffix_question(_all_files(image_dir), _all_files(label_dir))
        raise DatasetError(
            f"no {what} files ({pattern} of type {' '.join(IMAGE_TYPES)}) below "
            f"{expand_root(root)}{hint}"
        )

    chosen, missing = sorted(images), []
    if split_file is not None:
        chosen, missing = _select(images, split_file, image_suffix)
    if label_dir is None:
        records, no_label, no_image = [{"file_name": images[key]} for key in chosen], [], []
    else:
        pairs = _match(images, labels)
        records = [
            {"file_name": images[key], "sem_seg_file_name": labels[pairs[key]]}
            for key in chosen
            if key in pairs
        ]
        no_label = [images[key] for key in chosen if key not in pairs]
        unused = () if split_file is not None else labels.keys() - set(pairs.values())
        no_image = sorted(labels[key] for key in unused)
    problems = [
        f"{len(paths)} {what}{'s' * (len(paths) > 1)} {rest}: {listing(paths, 5)}"
        for paths, what, rest in (
            (missing, "line", f"of {split_file and expand_root(split_file)} without an image"),
            (no_label, "image", "without a label"),
            (no_image, "label", "without an image"),
        )
        if paths
    ]
    if problems:
        where = f"images below {image_dir}"
        if label_dir:
            where += f", labels below {label_dir}, paired by name without file type"
        question = _suffix_question(no_label, labels.values())
        raise UnpairedFilesError(f"{'; '.join(problems)} ({where}){question}", records)
    return records


def pair_listed(
    list_file: str | os.PathLike,
    image_root: str | os.PathLike,
    sem_seg_root: str | os.PathLike,
    *,
    image_type: str = ".jpg",
    **_: str,
) -> list[dict]:
    """List the files named in a text file. Deprecated: use `split_file` of `pair_files`."""
    warnings.warn("pair_listed is deprecated; use pair_files(..., split_file=...)", stacklevel=2)
    return pair_files(image_root, sem_seg_root, split_file=list_file, image_glob=f"*{image_type}")


def read_list(list_file: str | os.PathLike) -> list[str]:
    """Return the lines of a text file that lists files, without white space at their ends.

    Raises:
        DatasetError: the file is missing, not text or empty, or two lines are equal.
    """
    path = expand_root(list_file)
    try:
        with PathManager.open(path, "r", encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file if line.strip()]
    except FileNotFoundError as error:
        raise DatasetError(f"list of files not found: {path}{root_hint(list_file)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the list of files {path}: {error}") from error
    if not lines:
        raise DatasetError(f"the list of files {path} is empty")
    line, count = Counter(lines).most_common(1)[0]
    if count > 1:
        raise DatasetError(f"the list of files {path} names {line!r} {count} times; keep one line")
    return lines


def walk_folders(root: str, skip: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of a folder, and of each one below it, with the names of its files.

    A folder is visited once even if there are links to it: folders come before links, so it is
    found under its own path. Hidden folders, links to a folder that contains the root, and the
    folder with the real path `skip` are left out.
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


def root_hint(path: str | os.PathLike) -> str:
    """Describe the value of DETECTRON2_DATASETS, for a message about a missing path below it."""
    if "DETECTRON2_DATASETS" not in os.fspath(path):
        return ""
    value = os.environ.get("DETECTRON2_DATASETS")
    now = f"is {value!r}" if value else "is not set, which means 'datasets' in the current folder"
    return f" (DETECTRON2_DATASETS {now}; set it to the folder that holds the datasets)"


def _list_files(
    what: str,
    root: str | os.PathLike,
    suffix: str,
    belongs: Callable[[str], bool],
    other_dir: str | None,
) -> dict[str, str]:
    """Return {path below the root without suffix and file type: path} of the files that belong."""
    folder = expand_root(root)
    if not os.path.isdir(folder):
        raise DatasetError(f"{what} folder not found: {folder}{root_hint(root)}")
    # If one root is inside the other, its files belong only to it.
    other = other_dir and os.path.realpath(other_dir)
    found: dict[str, str] = {}
    types = IMAGE_TYPES + (ARRAY_TYPES if what == "label" else ())
    for parent, files in walk_folders(folder, other):
        prefix = os.path.relpath(parent, folder).replace(os.sep, "/") + "/"
        for file in files:
            path = os.path.join(parent, file)
            below = f"{prefix}{file}".removeprefix("./")
            stem, kind = os.path.splitext(below)
            if file.startswith(".") or kind.lower() not in types or not belongs(below):
                continue
            key = stem.removesuffix(suffix)
            if key in found:
                raise DatasetError(f"two {what} files have the same name: {found[key]} and {path}")
            found[key] = path
    return found


def _all_files(folder: str) -> list[str]:
    paths = (os.path.join(parent, name) for parent, names in walk_folders(folder) for name in names)
    types = (*IMAGE_TYPES, *ARRAY_TYPES)
    return [path for path in paths if os.path.splitext(path)[1].lower() in types]


def _match(images: Collection[str], labels: Collection[str]) -> dict[str, str]:
    """Return {key of an image: key of its label}, by equal keys, then by stems that are unique."""
    by_stem = {_name(key): key for key in labels}
    image_stems, label_stems = Counter(map(_name, images)), Counter(map(_name, labels))
    pairs = {}
    for key in images:
        if key in labels:
            pairs[key] = key
        elif image_stems[_name(key)] == label_stems[_name(key)] == 1:
            pairs[key] = by_stem[_name(key)]
    return pairs


def _select(
    images: Collection[str], split_file: str | os.PathLike, image_suffix: str
) -> tuple[list[str], list[str]]:
    """Return the keys of the images that a split file names, and the lines that fit no image.

    A line fits an image if one of the two paths ends with the other.
    """
    by_ending: dict[str, list[str]] = {}
    for key in images:
        for ending in _endings(key):
            by_ending.setdefault(ending, []).append(key)
    chosen: dict[str, str] = {}
    missing = []
    for line in read_list(split_file):
        whole = [e for e in _endings(_key(line, image_suffix)) if len(e.split()) > 1]
        found: list[list[str]] = []
        for endings in (whole, _endings(_key(line.split()[0], image_suffix))):
            found += [by_ending.get(e, []) for e in endings[:1]]
            found += [[e] for e in endings if e in images]
        fitting = next(filter(None, found), [])
        if len(fitting) > 1:
            raise DatasetError(
                f"{expand_root(split_file)}: {line!r} fits {len(fitting)} images, such as "
                f"{fitting[0]} and {fitting[1]}; add their folders to the line"
            )
        if not fitting:
            missing.append(line)
        elif chosen.setdefault(fitting[0], line) != line:
            raise DatasetError(
                f"{expand_root(split_file)}: {chosen[fitting[0]]!r} and {line!r} both fit the "
                f"image {fitting[0]}; keep one of them"
            )
    return list(chosen), missing


def _key(path: str, suffix: str) -> str:
    """Remove the type of an image file, if there is one, and the suffix of its stem."""
    stem, kind = os.path.splitext(path)
    return (stem if kind.lower() in IMAGE_TYPES else path).removesuffix(suffix)


def _endings(path: str) -> list[str]:
    """Return a path and all paths that it ends with, from the longest to its name."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _suffix_question(images: Iterable[str], labels: Iterable[str]) -> str:
    """Suggest suffixes with which most images would be paired; "" if there are none."""
    image_stems = {os.path.splitext(_name(path))[0] for path in images}
    label_stems = {os.path.splitext(_name(path))[0] for path in labels}
    common = os.path.commonprefix([stem[::-1] for stem in image_stems])[::-1]
    common = re.search(r"[_.-].*|$", common)[0] if len(image_stems) > 1 else ""
    for image_suffix in dict.fromkeys(("", common)):
        names = {stem.removesuffix(image_suffix) for stem in image_stems}
        endings = Counter(
            stem[end:]
            for stem in label_stems
            for end in range(1, len(stem) + bool(image_suffix))
            if stem[:end] in names
        )
        most = max(endings.values(), default=0)
        if most and 2 * most >= len(image_stems):
            best = sorted(ending for ending in endings if endings[ending] == most)[:3]
            words = [f"label_suffix={ending!r}" for ending in best if ending]
            words = [" or ".join(words)] if words else []
            words = [f"image_suffix={image_suffix!r}"] * bool(image_suffix) + words
            return f"; did you mean {' and '.join(words)}?"
    return ""


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
