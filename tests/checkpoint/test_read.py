"""Files that are no checkpoints: one line that names the file and says what it is."""

import os
import pickle
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hiera_seg.checkpoint import allow_unsafe_pickle, read_checkpoint, read_file
from hiera_seg.errors import CheckpointError

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
    return Path(name).read_bytes()


def write(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)


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
    arrays |= {"s": np.float32(2), "big endian": np.arange(3, dtype=">f4")}
    write(name, pickle.dumps({"model": arrays, "__author__": "x"}, 5))
    found = read_checkpoint(name)
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)
    assert found["s"].shape == () and found["s"].dtype == torch.float32
    assert found["big endian"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("length", [3, 4, 40, 1000, 20000, -30, -1])
def test_a_file_that_is_cut_short(length):
    write("x.pth", saved("x.pth")[:length])
    with pytest.raises(CheckpointError, match=r"^x\.pth: .*cut short or damaged \(\d+ bytes"):
        read_file("x.pth")


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.9])
def test_a_file_with_a_wrong_byte(place):
    content = bytearray(saved("x.pth"))
    content[int(place * len(content))] ^= 1
    write("x.pth", bytes(content))
    with pytest.raises(CheckpointError, match=r"^x\.pth: .*damaged"):
        read_file("x.pth")


def tar() -> bytes:
    write("inner", b"x")
    with tarfile.open("x.tar", "w") as archive:
        archive.add("inner")
    return Path("x.tar").read_bytes()


def zip_of(*names: str) -> bytes:
    with zipfile.ZipFile("x.zip", "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return Path("x.zip").read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def script() -> bytes:
    torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)).save("x.pt")
    return Path("x.pt").read_bytes()


def safetensors() -> bytes:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", ["x.pth", "x.pkl"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: b"", r"empty \(0 bytes\)"),
        (lambda: b"\n<!DOCTYPE html>\n<html>404 Not Found</html>", "an html page"),
        (lambda: "schön\n".encode() * 200, "it is a text file that begins with 'schön'"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs has not fetched"),
        (lambda: b"\x1f\x8b\x08\x00 whatever", "it is a gzip archive"),
        (tar, "it is a tar archive"),
        (
            lambda: zip_of("a.jpg", "b.jpg", "c.jpg", "d.jpg"),
            "torch.save did not write; it holds 'a.jpg', 'b.jpg', 'c.jpg' and 1 more",
        ),
        (zip_of, "torch.save did not write; it holds nothing"),
        (script, "a TorchScript program"),
        (lambda: bytes(range(255, 0, -1)), "not a checkpoint, .*; expected a file of torch"),
        (lambda: pickle.dumps({"w": np.ones(99)})[:-50], "a pickle that is cut short"),
    ],
)
def test_files_of_other_kinds(name, content, reason):
    write(name, content())
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_file(name)
    assert str(caught.value).startswith(name) and "\n" not in str(caught.value)


def test_no_file_and_a_folder(folder):
    for path, reason in (("no.pth", "no such checkpoint file"), (folder, "a folder, not a check")):
        with pytest.raises(CheckpointError, match=f"^{path}: {reason}"):
            read_file(path)


@pytest.mark.parametrize("kind", ["zip", "before torch 1.6", "pickle"])
def test_code_in_a_file_is_not_run(folder, kind):
    content = {"model": STATE, "x": RunsCode()}
    if kind == "pickle":
        write("x.pth", pickle.dumps({"model": {"x": RunsCode()}}))
    else:
        saved("x.pth", content, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match=r"^x\.pth: .* posix\.mkdir .* --unsafe-pickle "):
        read_file("x.pth")
    assert not (folder / "it_ran").exists()


def test_modules_and_tensors_in_a_pickle_are_refused_by_their_classes():
    saved("x.pth", torch.nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match=r"^x\.pth: .* torch\.nn\.modules\.linear\.Linear "):
        read_file("x.pth")
    write("x.pkl", pickle.dumps({"model": STATE}))
    with pytest.raises(CheckpointError, match=r"torch\._utils\S+ .* belong in a file of torch"):
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
        r"(load_for_eval|build_for_eval|load_predictor|Checkpointer|convert_checkpoint|\.evaluate)"
    )
    found = 0
    for tool in (Path(__file__).resolve().parents[2] / "tools").glob("*.py"):
        text = tool.read_text()
        if re.search(loads, text):
            found += 1
            adds = re.search(r"add_unsafe_pickle\(|argument_parser\(|add_config\((.*)\)", text)
            assert adds and "weights=False" not in (adds[1] or ""), tool
            assert re.search(
                r"allow_unsafe_pickle\(args\.|(setup|read_config|read_run_config)\w*\(args", text
            ), tool
    assert found >= 5


def test_compressed_entries_are_refused_before_they_are_inflated(monkeypatch):
    with zipfile.ZipFile("x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"N.")
        archive.writestr("x/data/0", bytes(10**6))
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(CheckpointError, match=r"^x\.pth: .*x/data\.pkl is compressed"):
        read_file("x.pth")


FIVE_THOUSAND, MORE = b"M\x88\x13", b"M\x88\x14"  # 5000 and 5256, pickled


@pytest.mark.parametrize(
    ("entry", "old", "new", "reason"),
    [
        ("data/0", bytes(STATE["weight"].numpy())[-8:], b"", "20000 bytes, but x/data/0 has 19992"),
        ("data.pkl", FIVE_THOUSAND, MORE, ".* 21024 bytes, .* has 20000"),
        ("data.pkl", FIVE_THOUSAND + b"\x85", MORE + b"\x85", r".*\(5256,\).* 5000 values"),
    ],
    ids=["short storage", "larger storage", "larger tensor"],
)
def test_sizes_that_do_not_add_up(entry, old, new, reason):
    saved("x.pth")
    with zipfile.ZipFile("x.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile("x.pth", "w") as archive:
        for name, content in entries.items():
            changed = name.endswith(entry)
            archive.writestr(name, content.replace(old, new) if changed else content)
    with pytest.raises(CheckpointError, match=rf"^x\.pth: model/weight .*{reason}"):
        read_file("x.pth")


@pytest.mark.parametrize("length", [0.2, 0.5, 0.99])
def test_a_file_from_before_torch_1_6_that_is_cut_short(length):
    content = saved("x.pth", _use_new_zipfile_serialization=False)
    write("x.pth", content[: int(length * len(content))])
    with pytest.raises(CheckpointError, match=r"^x\.pth: .*cut short"):
        read_file("x.pth")


def test_storages_that_a_file_from_before_torch_1_6_does_not_hold():
    """torch.load leaves the memory of a storage that is not listed as it finds it."""
    content = saved("x.pth", {"w": torch.ones(3)}, _use_new_zipfile_serialization=False)
    keys = content.index(b"\x80\x02]")
    write("x.pth", content[:keys] + b"\x80\x02].")
    with pytest.raises(CheckpointError, match=r"^x\.pth: the storages that it names"):
        read_file("x.pth")
    write("x.pth", content[:keys].replace(b"K\x03N", b"J\x00\x00\x00\x70N") + content[keys:])
    with pytest.raises(CheckpointError, match=r"^x\.pth: w needs 7516192768 bytes; .* cut short"):
        read_file("x.pth")


TENSOR = torch.arange(6.0).reshape(2, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda: TENSOR.to_sparse(), "sparse"),
        (lambda: TENSOR.to_sparse_csr(), "sparse"),
        (lambda: TENSOR.to("meta"), "meta"),
        (lambda: torch.quantize_per_tensor(TENSOR, 0.1, 0, torch.qint8), "quantized"),
        (lambda: torch.nested.nested_tensor([TENSOR, TENSOR[:1]]), "nested"),
        (lambda: torch.ones(1).expand(1000), r"shape \(1000,\), but its storage holds 1 values"),
        (lambda: TENSOR.to(torch.complex64).conj(), "conjugate"),
    ],
)
def test_tensors_without_plain_values_are_named(value, reason, zipped):
    content = {"model": {"fine": TENSOR, "layer.weight": value()}}
    saved("x.pth", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=rf"^x\.pth: model/layer\.weight .*{reason}"):
        read_file("x.pth")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_everything_that_runs_save_comes_back_as_torch_has_it(zipped):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": layer.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2]).state_dict(),
        "random": torch.get_rng_state(),
        "strided": [TENSOR.T, TENSOR[:, 1:], TENSOR[:0], torch.tensor(3), TENSOR > 2],
        "types": [TENSOR.half(), TENSOR.bfloat16(), TENSOR.to(torch.complex64), TENSOR.double()],
        "plain": (TENSOR.shape, torch.float16, torch.device("cuda", 1), {1, "a"}, None, 2**70),
        "numpy": [np.float64(2), np.arange(3)],
    }
    saved("x.pth", content, _use_new_zipfile_serialization=zipped)
    expected, found = torch.load("x.pth", weights_only=False), read_file("x.pth")
    assert type(found["model"]) is type(expected["model"])
    assert found.pop("plain") == expected.pop("plain")
    torch.testing.assert_close(found, expected, rtol=0, atol=0, check_stride=True)


def test_tensors_that_share_their_storage_still_do():
    saved("x.pth", {"a": TENSOR, "b": TENSOR[1]})
    found = read_file("x.pth")
    found["a"].zero_()
    assert not found["b"].any()


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_safetensors_are_read_whatever_their_name(name):
    pytest.importorskip("safetensors", reason="needs safetensors")
    write(name, safetensors())
    assert read_checkpoint(name)["w"].tolist() == [0]


@pytest.mark.parametrize("length", [-1, 40, 12])
def test_safetensors_that_are_cut_short(length):
    pytest.importorskip("safetensors", reason="needs safetensors")
    write("x.pth", safetensors()[:length])
    with pytest.raises(CheckpointError, match=r"^x\.pth: a safetensors file that is cut short"):
        read_file("x.pth")


def test_safetensors_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    write("x.pth", safetensors())
    with pytest.raises(CheckpointError, match=r"^x\.pth: a safetensors .*pip install safetensors"):
        read_file("x.pth")


@pytest.mark.parametrize("junk", [b"\n", b"HTTP/1.1 200 OK\r\n\r\n", b"\x80\x02junk"])
def test_bytes_before_a_zip_archive(junk):
    write("x.pth", junk + saved("x.pth"))
    with pytest.raises(CheckpointError, match=r"^x\.pth: .*zip archive with other bytes before"):
        read_file("x.pth")


@pytest.mark.parametrize("protocol", [2, 5])
def test_an_array_of_another_size_than_its_bytes(protocol):
    array, shape = np.arange(15, dtype=np.int16), b"K\x0f\x85"
    content = pickle.dumps({"model": {"w": array}}, protocol)
    write("x.pkl", content.replace(shape, b"K\x10\x85"))
    with pytest.raises(CheckpointError, match=r"^x\.pkl: model/w has shape \(16,\) .* 30 bytes"):
        read_file("x.pkl")
