"""Write files atomically, name the file in errors, and prepare values for JSON."""

import contextlib
import errno
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any


def replace_file(path: str | os.PathLike, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a temporary name, and rename it once it is complete on the disk.

    Args:
        path: the file; a previous one is kept until the new one is complete. Links are followed,
            and special files such as ``/dev/stdout`` are written to directly.
        write: function that writes to an open binary file.

    Raises:
        OSError: the file cannot be written; ``filename`` is `path`.
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        with naming(path), open(target, "wb") as file:
            write(file)
        return
    # One temporary name per file, because several processes write to a folder. The temporary file
    # of a killed process is overwritten when the resumed run writes the same file.
    temporary = f"{target}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(os.path.dirname(target))
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if not isinstance(error, OSError | RuntimeError):
            raise
        raise _naming_error(error, path) from error


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8 by :func:`replace_file`."""
    replace_file(path, lambda file: file.write(text.encode()))


def json_data(value: Any) -> Any:
    """Return a value for a JSON file: arrays become lists, NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): json_data(inner) for key, inner in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [json_data(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Context manager that adds `path` to an OSError without a file name (of a full disk)."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _system_error(error)
        if cause is None or cause.filename is not None:
            raise
        raise _naming_error(error, path) from error


def discard_pending(file: IO) -> None:
    """Redirect an open file to the null device after a failed write.

    Its buffers are flushed when it is closed or the interpreter ends, which would fail again.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, file.fileno())
    os.close(null)


def _naming_error(error: Exception, path: str | os.PathLike) -> OSError:
    cause = _system_error(error)
    if cause is None:
        return OSError(errno.EIO, str(error).strip().split("\n")[0], os.fspath(path))
    return OSError(cause.errno or errno.EIO, cause.strerror or str(cause), os.fspath(path))


def _system_error(error: BaseException | None) -> OSError | None:
    """Return the OSError that caused an error; torch.save wraps it in its own errors."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _sync_folder(folder: str) -> None:
    """Write a new file name to the disk, if the file system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
