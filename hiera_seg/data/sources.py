"""List the files of a registered dataset when it is used."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hiera_seg.data.image_files import refuse_download
from hiera_seg.data.json_files import read_json_file, refuse_annotations
from hiera_seg.data.listing import UnpairedFilesError, expand_root, pair_files, root_hint
from hiera_seg.errors import DatasetError

_EXPECTED = "expected a list of dicts with 'file_name' and 'sem_seg_file_name'"


class DatasetSource:
    """List the dicts of a dataset when called; unlike a closure, it can be pickled.

    Args:
        name: name of the dataset.
        source: a callable, a list of dicts, the path of a json file, or None to pair two folders;
            see :func:`~hiera_seg.data.register_hierarchical_dataset`.
        image_root: folder of the images.
        sem_seg_root: folder of the label files.
        pairing: keyword arguments of :func:`~hiera_seg.data.pair_files`.
    """

    def __init__(
        self,
        name: str,
        source: Any,
        image_root: str | None = None,
        sem_seg_root: str | None = None,
        **pairing: Any,
    ) -> None:
        self.name = name
        self.source = source
        self.image_root = image_root
        self.sem_seg_root = sem_seg_root
        self.pairing = pairing

    def __call__(self) -> list[dict]:
        return list(self.iterate())

    def iterate(self) -> Iterator[dict]:
        """List the dicts one by one, for datasets of which a list would fill the memory."""
        roots, origin = None, ""
        try:
            if self.source is None:
                records = pair_files(self.image_root, self.sem_seg_root, **self.pairing)
            elif callable(self.source):
                records = self.source()
            elif isinstance(self.source, list):
                records, roots = self.source, self._roots("")
            else:
                origin = expand_root(self.source)
                records, roots = self._read_json(origin), self._roots(os.path.dirname(origin))
            yield from self._finish(records, roots, origin)
        except DatasetError as error:
            # Keep the error object, which has attributes, and add the name to its message.
            error.args = (f"dataset {self.name!r}: {error}",)
            if isinstance(error, UnpairedFilesError) and error.records:
                error.records = list(self._finish(error.records))
            raise

    def _roots(self, default: str) -> dict[str, str]:
        """Return the folder that the paths of each key are relative to."""
        roots = {"file_name": self.image_root, "sem_seg_file_name": self.sem_seg_root}
        return {key: expand_root(root) if root else default for key, root in roots.items()}

    def _finish(
        self, records: Iterable[Any], roots: Mapping[str, str] | None = None, origin: str = ""
    ) -> Iterator[dict]:
        """Yield checked copies with this dataset's name and with paths joined to the roots.

        Args:
            records: the dicts.
            roots: {key: folder}; None: paths stay as they are.
            origin: the file that lists the dicts, for messages.
        """
        index = -1
        for index, record in enumerate(records):
            if not isinstance(record, dict | Mapping) or not _is_path(record.get("file_name")):
                raise DatasetError(f"{_entry(origin, index)}: not a dict with a 'file_name'")
            # A dict that comes from another dataset has the name of that dataset.
            record = {**record, "dataset_name": self.name}
            for key in ("file_name", "sem_seg_file_name"):
                value = record.get(key)
                if value is None:
                    record.pop(key, None)
                    continue
                if not _is_path(value):
                    raise DatasetError(
                        f"{_entry(origin, index)}: {key!r} is {value!r}; specify a path, or null "
                        "for an image without a label"
                    )
                path = os.fspath(value)
                if "://" in path:
                    refuse_download(path, f"{_entry(origin, index)}: {key!r} is ")
                record[key] = os.path.join(roots[key], path) if roots else path
            yield record
        if index < 0:
            raise DatasetError(f"{origin} holds an empty list" if origin else "lists no images")

    def _read_json(self, path: str) -> list:
        records = read_json_file(path, hint=root_hint(self.source), expected=_EXPECTED)
        if not isinstance(records, list):
            refuse_annotations(records, path)
            raise DatasetError(f"{path} holds a {type(records).__name__}; {_EXPECTED}")
        return records


def _entry(origin: str, index: int) -> str:
    return f"{origin}, entry {index}" if origin else f"entry {index}"


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)
