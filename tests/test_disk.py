"""Files on a full disk: each error names its file, and what was there before stays."""

import errno
import json
import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from hiera_seg.disk import discard_pending, json_data, naming, replace_file, replace_text

FULL = Path("/dev/full")  # every write to it fails as on a full disk
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, which Linux has")


def check_named(error: pytest.ExceptionInfo, path: Path) -> None:
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))


def test_an_error_without_a_file_name_gets_one():
    with pytest.raises(OSError) as error, naming("a.json"), open(FULL, "w") as file:
        file.write("x")
    check_named(error, Path("a.json"))


def test_an_error_that_names_its_file_keeps_it_and_others_pass():
    with pytest.raises(FileNotFoundError) as error, naming("a.json"):
        open("b.json")
    assert error.value.filename == "b.json"
    with pytest.raises(RuntimeError, match="of the network"), naming("a.json"):
        raise RuntimeError("of the network")


def test_what_wraps_the_error_of_the_system_is_unwrapped(tmp_path):
    def wrapped(file):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RuntimeError("unexpected pos 64 vs 0") from error  # as torch.save does

    with pytest.raises(OSError) as error:
        replace_file(tmp_path / "x.pth", wrapped)
    check_named(error, tmp_path / "x.pth")
    assert os.listdir(tmp_path) == []


def test_a_device_is_written_to_and_not_replaced():
    with pytest.raises(OSError) as error:
        replace_text(FULL, "x")
    check_named(error, FULL)
    assert stat.S_ISCHR(os.stat(FULL).st_mode)
    replace_text(os.devnull, "x")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "elsewhere" / "file.json")
    replace_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "elsewhere" / "file.json").read_text() == "new"


def test_what_is_pending_does_not_fail_again():
    file = open(FULL, "w")
    file.write("x")
    with pytest.raises(OSError):
        file.flush()
    discard_pending(file)
    file.close()


def test_arrays_and_values_that_are_not_finite_become_json():
    value = {3: np.array([[1.5, np.nan]]), "a": (np.float32(np.inf), -math.inf, np.int64(7), None)}
    found = json.loads(json.dumps(json_data(value), allow_nan=False))
    assert found == {"3": [[1.5, None]], "a": [None, None, 7, None]}
