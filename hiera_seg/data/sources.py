"""List the files of a registered dataset when it is used."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hiera_seg.data.json_files import is_labelme, iterate_json_list, read_json_file
from hiera_seg.data.listing import UnpairedFilesError, expand_root, pair_files, root_hint
from hiera_seg.data.open_file import refuse_download
from hiera_seg.errors import DatasetError


class DatasetSource:
    """List the dicts of a dataset when called; unlike a closure, it can be pickled.

    The arguments are those of :func:`~hiera_seg.data.register_hierarchical_dataset`, and `pairing`
    those of :func:`~hiera_seg.data.pair_files`.
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
            yield from self._checked(records, roots, origin)
        except DatasetError as error:
            # Keep the error object, which has attributes, and add the name to its message.
            error.args = (f"dataset {self.name!r}: {error}",)
            if isinstance(error, UnpairedFilesError) and error.records:
                error.records = list(self._checked(error.records))
            raise

    def _roots(self, default: str) -> dict[str, str]:
        """Return the folder that the paths of each key are relative to."""
        roots = {"file_name": self.image_root, "sem_seg_file_name": self.sem_seg_root}
        return {key: expand_root(root) if root else default for key, root in roots.items()}

    def _checked(
        self, records: Iterable[Any], roots: Mapping[str, str] | None = None, origin: str = ""
    ) -> Iterator[dict]:
        """Yield checked copies of dicts with this dataset's name and with paths joined to `roots`.

        `origin` is the file that lists the dicts, for messages.
        """
        index = -1
        for index, record in enumerate(records):
            where = f"{origin}, entry {index}" if origin else f"entry {index}"
            if not isinstance(record, dict | Mapping) or not record.get("file_name"):
                raise DatasetError(f"{where}: not a dict with a 'file_name'")
            # A dict that comes from another dataset has the name of that dataset.
            record = {**record, "dataset_name": self.name}
            if record.get("sem_seg_file_name") is None:
                record.pop("sem_seg_file_name", None)
            for key in ("file_name", "sem_seg_file_name"):
                if key not in record:
                    continue
                if not isinstance(record[key], str | os.PathLike):
                    raise DatasetError(f"{where}: {key!r} is {record[key]!r}; specify a path")
                path = os.fspath(record[key])
                if "://" in path:
                    refuse_download(path, f"{where}: {key!r} is ")
                record[key] = os.path.join(roots[key], path) if roots else path
            yield record
        if index < 0:
            raise DatasetError(f"{origin} holds an empty list" if origin else "lists no images")

    def _read_json(self, path: str) -> Iterator[Any]:
        count = yield from iterate_json_list(path)
        if count is None:
            return
        content = read_json_file(path, hint=root_hint(self.source))
        if isinstance(content, list):
            yield from content[count:]
            return
        if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
            problem = (
                "is a COCO file; register it with "
                f"hiera_seg.data.register_coco_hierarchical(name, {path!r}, image_root)"
            )
        elif is_labelme(content):
            problem = "is a labelme file; write label files with tools/convert_annotations.py"
        else:
            problem = (
                f"holds a {type(content).__name__}; expected a list of dicts with 'file_name' and "
                "'sem_seg_file_name'"
            )
        raise DatasetError(f"{path} {problem}")
