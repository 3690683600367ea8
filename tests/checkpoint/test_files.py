"""Files that are no checkpoints: one line that names the file and says what it is."""

import os
import pickle
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hiera_seg.checkpoint import CheckpointError, allow_unsafe_pickle, read_checkpoint, read_file

STATE = {"weight": torch.arange(5000.0), "bias": torch.ones(3, dtype=torch.int64)}


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("it_ran",)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(name: str, content: object = None, **options: object) -> bytes:
    torch.save({"model": STATE} if content is None else content, name, **options)
    with open(name, "rb") as file:
        return file.read()


def write(name: str, content: bytes) -> None:
    with open(name, "wb") as file:
        file.write(content)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("name", ["x.pth", "x.pkl", "x"])
def test_files_of_torch_are_read_whatever_their_name(name, zipped):
    saved(name, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(name)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("name", ["x.pth", "x.pkl"])
def test_pickles_of_arrays_are_read_whatever_their_name(name):
    arrays = {key: value.numpy() for key, value in STATE.items()}
    write(name, pickle.dumps({"model": {**arrays, "s": np.float32(2)}, "__author__": "x"}))
    found = read_checkpoint(name)
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)
    assert found["s"].shape == () and found["s"].dtype == torch.float32


@pytest.mark.parametrize("length", [3, 4, 40, 1000, 20000, -30, -1])
def test_a_file_that_is_cut_short(length):
    write("x.pth", saved("x.pth")[:length])
    with pytest.raises(CheckpointError, match=r"^x\.pth is cut short or damaged: it is \d+ bytes"):
        read_file("x.pth")


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.9])
def test_a_file_with_a_wrong_byte(place):
    content = bytearray(saved("x.pth"))
    content[int(place * len(content))] ^= 1
    write("x.pth", bytes(content))
    with pytest.raises(CheckpointError, match=r"^x\.pth .*damaged"):
        read_file("x.pth")


def html() -> bytes:
    return b"\n<!DOCTYPE html>\n<html>404 Not Found</html>"


def tar() -> bytes:
    write("inner", b"x")
    with tarfile.open("x.tar", "w") as archive:
        archive.add("inner")
    with open("x.tar", "rb") as file:
        return file.read()


def zip_of_pictures() -> bytes:
    with zipfile.ZipFile("x.zip", "w") as archive:
        for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
            archive.writestr(name, "x")
    with open("x.zip", "rb") as file:
        return file.read()


def empty_zip() -> bytes:
    zipfile.ZipFile("x.zip", "w").close()
    with open("x.zip", "rb") as file:
        return file.read()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def script() -> bytes:
    torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)).save("x.pt")
    with open("x.pt", "rb") as file:
        return file.read()


def safetensors() -> bytes:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", ["x.pth", "x.pkl"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: b"", "is empty"),
        (html, "it is an html page"),
        (lambda: "schön\n".encode() * 200, "it is a text file that begins with 'schön'"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs has not fetched"),
        (lambda: b"\x1f\x8b\x08\x00 whatever", "it is a gzip archive"),
        (tar, "it is a tar archive"),
        (zip_of_pictures, "torch.save did not write; it holds a.jpg, b.jpg, c.jpg, ..."),
        (empty_zip, "torch.save did not write; it holds nothing"),
        (script, "is a TorchScript program"),
        (safetensors, "it is a safetensors file"),
        (lambda: bytes(range(255, 0, -1)), "can not be read as a checkpoint"),
        (lambda: pickle.dumps({"w": np.ones(99)})[:-50], "truncated|ran out of input"),
    ],
)
def test_files_of_other_kinds(name, content, reason):
    write(name, content())
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_file(name)
    assert str(caught.value).startswith(name) and "\n" not in str(caught.value)


def test_no_file_and_a_folder(folder):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint file no\.pth"):
        read_file("no.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_file(folder)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_code_in_a_file_of_torch_is_not_run(folder, zipped):
    saved("x.pth", {"model": STATE, "x": RunsCode()}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"^x\.pth wants posix\.mkdir, .* --unsafe-pickle$"):
        read_file("x.pth")
    assert not (folder / "it_ran").exists()


def test_code_in_a_pickle_is_not_run(folder):
    write("x.pkl", pickle.dumps({"model": {"x": RunsCode()}}))
    with pytest.raises(CheckpointError, match=r"^x\.pkl wants posix\.mkdir, .* --unsafe-pickle$"):
        read_file("x.pkl")
    assert not (folder / "it_ran").exists()


def test_a_whole_module_is_refused_by_its_class():
    saved("x.pth", torch.nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match=r"wants torch\.nn\.modules\.linear\.Linear"):
        read_file("x.pth")


def test_tensors_in_a_pickle_are_refused_with_advice():
    write("x.pkl", pickle.dumps({"model": STATE}))
    with pytest.raises(CheckpointError, match=r"torch\._utils\S+, .* belong into a file of torch"):
        read_file("x.pkl")


def test_whoever_trusts_a_file_can_say_so(folder):
    saved("x.pth", {"model": STATE, "x": RunsCode()})
    write("y.pkl", pickle.dumps({"model": STATE}))
    allow_unsafe_pickle()
    try:
        assert read_checkpoint("x.pth").keys() == STATE.keys()
        assert (folder / "it_ran").exists()
        assert read_checkpoint("y.pkl").keys() == STATE.keys()
    finally:
        allow_unsafe_pickle(False)
    with pytest.raises(CheckpointError):
        read_file("x.pth")


def test_every_tool_that_loads_weights_has_the_switch():
    loads = (
        "load_for_eval(",
        "build_for_eval(",
        "load_predictor(",
        "Checkpointer(",
        "convert_checkpoint(",
        ".evaluate(",
    )
    found = 0
    for tool in (Path(__file__).resolve().parents[2] / "tools").glob("*.py"):
        text = tool.read_text()
        if any(word in text for word in loads):
            found += 1
            assert "add_unsafe_pickle(parser)" in text or "argument_parser(" in text, tool.name
            assert "allow_unsafe_pickle(args." in text or re.search("setup\\w*\\(args", text), (
                tool.name
            )
    assert found >= 5
