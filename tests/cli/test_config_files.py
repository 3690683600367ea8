"""Config files are read without executing code, and errors name file and line."""

import errno
import os
import time

import pytest
import yaml

from hiera_seg.cli import argument_parser, exit_on_error, load_config, setup
from hiera_seg.errors import ConfigError

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
        (["INPUT: {MIN_SIZE_TEST: !!python/tuple [3, 4]}"], "!!python/tuple"),
        (["MODEL: {DEVICE: !mine x}"], "line 1: could not determine a constructor for .*!mine"),
        (["_BASE_: b.yaml", "_BASE_: a.yaml"], "_BASE_"),
        (["_BASE_: c.yaml"], r"No such file or directory: .*c\.yaml"),
        ([""], "DEVICE: cpu"),
        (["- 1"], "DEVICE: cpu"),
        (["MODEL: 3"], "DEVICE: cpu"),
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


def test_a_name_of_the_model_zoo_is_read_where_there_is_no_such_file(folder):
    name = "CamVid/hssn_deeplab_v3_plus_r18.yaml"
    for written in (name, f"configs/{name}"):
        assert load_config(written, []).DATASETS.TRAIN == ("hiera_camvid_train",)
    (folder / "CamVid").mkdir()
    (folder / name).write_text("OUTPUT_DIR: mine\nVERSION: 2\n")
    assert load_config(name, []).OUTPUT_DIR == "mine"
    with pytest.raises(ConfigError, match="CamVid/hssn_r18.yaml: .*nearest: .*CamVid"):
        load_config("CamVid/hssn_r18.yaml", [])


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


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "No such file", "x"), RuntimeError("shapes do not match")],
)
def test_other_errors_are_bugs_and_keep_their_traceback(error):
    def fail():
        raise error

    with pytest.raises(type(error)):
        exit_on_error(fail)


@pytest.fixture
def downloads(monkeypatch, folder):
    """The addresses that iopath was asked to download; each gives an empty config."""
    asked = []

    def download(url, directory, *, filename, **_):
        asked.append(url)
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, filename)
        with open(path, "w") as file:
            file.write("OUTPUT_DIR: fetched\n")
        return path

    monkeypatch.setattr("iopath.common.file_io.download", download)
    monkeypatch.setenv("FVCORE_CACHE", str(folder / "cache"))
    return asked


ADDRESSES = [
    "http://strangers.invalid/b.yaml",
    "https://strangers.invalid/b.yaml",
    "ftp://strangers.invalid/b.yaml",
    "detectron2://b.yaml",
    "catalog://ImageNetPretrained/MSRA/R-50",
]


@pytest.mark.parametrize("form", ["_BASE_: {}", "_BASE_: ['b.yaml', '{}']", "_BASE_: c.yaml"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_base_on_the_network_is_refused(folder, downloads, form, address):
    (folder / "a.yaml").write_text(form.format(address))
    (folder / "b.yaml").write_text("OUTPUT_DIR: here\n")
    (folder / "c.yaml").write_text(f"_BASE_: {address}\n")  # in a base of a base
    with pytest.raises(ConfigError) as error:
        load_config("a.yaml", [])
    assert "config file a.yaml" in str(error.value) and "_BASE_" in str(error.value)
    assert address in str(error.value) and "--allow-remote-config" in str(error.value)
    assert downloads == []


def test_a_base_on_the_network_is_allowed_by_the_switch_alone(folder, downloads):
    (folder / "a.yaml").write_text(f"_BASE_: {ADDRESSES[1]}\nVERSION: 2\n")
    assert load_config("a.yaml", [], allow_remote=True).OUTPUT_DIR == "fetched"
    assert downloads == [ADDRESSES[1]]
    for allowed in (False, True):  # of --config-file itself, whoever types it can download it
        with pytest.raises(ConfigError, match=f"config file {ADDRESSES[0]}"):
            load_config(ADDRESSES[0], [], allow_remote=allowed)
    assert downloads == [ADDRESSES[1]]


def test_the_switch_of_train_net_reaches_the_config(folder, downloads):
    address = "https://strangers.invalid/c.yaml"  # iopath does not download one address twice
    (folder / "a.yaml").write_text(f"_BASE_: {address}\nVERSION: 2\n")
    words = ["--config-file", "a.yaml"]
    with pytest.raises(ConfigError, match="--allow-remote-config"):
        setup(argument_parser().parse_args(words))
    assert downloads == []
    with pytest.raises(ConfigError, match="DATASETS.TRAIN is empty"):  # it has been read
        setup(argument_parser().parse_args([*words, "--allow-remote-config"]))
    assert downloads == [address]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("OUTPUT_DIR", "http://strangers.invalid/run"),
        ("MODEL.HIERA_SEG.HIERARCHY", "https://strangers.invalid/tree.yaml"),
        ("MODEL.HIERA_SEG.NODE_WEIGHTS.FILE", "detectron2://counts.json"),
        ("MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT.FILE", "ftp://strangers.invalid/counts.json"),
        ("MODEL.HIERA_SEG.TIMM.CHECKPOINT", "https://strangers.invalid/x.pth"),
        ("DATASETS.PROPOSAL_FILES_TRAIN", ("http://strangers.invalid/p.pkl",)),
        ("MODEL.WEIGHTS", "http://strangers.invalid/x.pth"),
        ("MODEL.WEIGHTS", "FTP://strangers.invalid/x.pth"),
        ("MODEL.WEIGHTS", "s3://strangers/x.pth"),
        ("MODEL.WEIGHTS", "https://strangers.invalid/../../../x.pth"),
        ("MODEL.WEIGHTS", "detectron2://../../x.pth"),
    ],
)
def test_no_other_key_may_name_an_address(folder, key, value):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")) as error:
        load_config("", [key, value])
    assert "://" in str(error.value)


@pytest.mark.parametrize(
    "weights", ["detectron2://x.pkl", "catalog://x", "https://x.invalid/x.pth", "a/x.pth", ""]
)
def test_weights_may_come_from_catalogs_and_by_https(weights):
    assert load_config("", ["MODEL.WEIGHTS", weights]).MODEL.WEIGHTS == weights


NESTED = "brackets are nested"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DATASETS: {TRAIN: " + "[" * 50_000, NESTED),
        ("DATASETS: {TRAIN: " + "[" * 50_000 + "]" * 50_000 + "}", NESTED),
        ("A: " + "{a: " * 5_000, NESTED),
        ("- " * 50_000, NESTED),
        ("? " * 50_000, NESTED),
        ("a: &a [" + "x, " * 60_000 + "]\nb: [*a, *a]", "aliases"),
        (
            "a0: &a0 [x, x]\n"
            + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60)),
            "aliases",
        ),
        (
            "a0: &a0 {x: 1}\n"
            + "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(60)),
            "aliases",
        ),
        ("a: &a [*a]", r"\*a contains itself"),
        ("OUTPUT_DIR: '" + "-" * 50_000 + "1'", "of a value are nested"),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("name", ["a", "b"])
def test_brackets_and_aliases_out_of_all_bounds_are_refused_at_once(folder, name, text, message):
    (folder / "a.yaml").write_text("_BASE_: b.yaml\n")
    (folder / f"{name}.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(ConfigError, match=message) as error:
        load_config("a.yaml", [])
    assert time.process_time() - start < 10  # up to a minute, or all memory, without the check
    assert "_BASE_" not in str(error.value)
    if "of a value" not in message:
        assert f"{name}.yaml, line" in str(error.value)


def test_ordinary_aliases_are_read(folder):
    (folder / "a.yaml").write_text(
        "INPUT: {MIN_SIZE_TRAIN: &sizes [32, 64]}\n"
        "TEST: {AUG: {MIN_SIZES: *sizes}}\nSOLVER: &s {MAX_ITER: 7}\n"
    )
    cfg = load_config("a.yaml", [])
    assert cfg.TEST.AUG.MIN_SIZES == cfg.INPUT.MIN_SIZE_TRAIN == (32, 64)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("MODEL.HIERA_SEG.LOSES", "MODEL.HIERA_SEG.LOSSES"),
        ("SOLVER.MAX_ITERS", "SOLVER.MAX_ITER"),
        ("solver.base_lr", "SOLVER.BASE_LR"),
        ("MODEL.HIERARCHY", "MODEL.HIERA_SEG.HIERARCHY"),
        ("DATASET.TRAIN", "DATASETS.TRAIN"),
    ],
)
def test_a_misspelt_key_gets_the_nearest(folder, typed, expected):
    with pytest.raises(ConfigError, match=rf"{typed}.*nearest: .*'{expected}'"):
        load_config("", [typed, "1"])
    nested = ": {".join(typed.split(".")) + ": 1" + "}" * typed.count(".")
    (folder / "a.yaml").write_text(f"VERSION: 2\n{nested}\n")
    if typed.islower():  # a file is refused for its first part
        expected = expected.split(".")[0]
    with pytest.raises(ConfigError, match=rf"a\.yaml.*nearest: .*'{expected}'"):
        load_config("a.yaml", [])
