"""Config files of strangers: what could run code is refused, and what is no config is named."""

import errno
import os

import pytest
import yaml

from hiera_seg.config import ConfigError
from hiera_seg.engine import exit_on_error, load_config

RUNS_CODE = 'MODEL: {DEVICE: !!python/object/apply:os.mkdir ["it_ran"]}\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([RUNS_CODE], r"a\.yaml, line 1: the tag !!python/object/apply:os\.mkdir is refused"),
        (
            ["_BASE_: b.yaml\n", "VERSION: 2\n" + RUNS_CODE],
            r"b\.yaml, line 2: the tag !!python",
        ),
        (["INPUT: {MIN_SIZE_TEST: !!python/tuple [3, 4]}"], "!!python/tuple .*write lists"),
        (["MODEL: {DEVICE: !mine x}"], "line 1: could not determine a constructor for .*!mine"),
        (["_BASE_: b.yaml", "_BASE_: a.yaml"], "its _BASE_ files name each other"),
        (["_BASE_: c.yaml"], r"No such file or directory: .*c\.yaml"),
        ([""], "does not hold keys with their values"),
        (["- 1"], "does not hold keys with their values"),
        (["MODEL: 3"], "does not hold keys with their values"),
        (["MODEL: ["], r"a\.yaml, line 1: expected"),
        (["NOPE: 1"], "Non-existent config key: NOPE"),
        (["\udcff\udcfe"], "invalid start byte"),
    ],
)
def test_config_files_that_are_refused(folder, files, message):
    for name, text in zip("ab", files, strict=False):
        (folder / f"{name}.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=rf"^config file a\.yaml: .*{message}"):
        load_config("a.yaml", [])
    assert not (folder / "it_ran").exists()


def test_options_are_values_and_not_code(folder):
    cfg = load_config("", ["OUTPUT_DIR", "__import__('os').mkdir('it_ran')"])
    assert cfg.OUTPUT_DIR.startswith("__import__") and not (folder / "it_ran").exists()


def test_a_config_that_a_run_has_written_is_read_again(folder):
    cfg = load_config("", ["INPUT.MIN_SIZE_TRAIN", "(32, 64)", "DATASETS.TRAIN", "('x', 'y')"])
    (folder / "a.yaml").write_text(cfg.dump())
    again = load_config("a.yaml", [])
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert again.INPUT.MIN_SIZE_TRAIN == (32, 64) and again.DATASETS.TRAIN == ("x", "y")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_can_not_be_written_is_one_line(number, capsys):
    def write():
        raise OSError(number, os.strerror(number), "metrics.json")

    with pytest.raises(SystemExit) as stop:
        exit_on_error(write)
    assert stop.value.code == 1
    assert capsys.readouterr().err == f"error: metrics.json: {os.strerror(number)}\n"


def test_other_errors_of_the_system_keep_their_traceback():
    def read():
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    with pytest.raises(FileNotFoundError):
        exit_on_error(read)
