"""tools/install_detectron2.py without a network: refusals, patches, builds."""

import hashlib
import importlib.metadata
import importlib.util
import io
import os
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.helpers import TOOLS, run_python

SCRIPT = TOOLS / "install_detectron2.py"

# As little of Detectron2 0.6 as the script touches, with the lines that it must patch.
SOURCES = {
    "LICENSE": "",
    "setup.py": (
        "from setuptools import Extension, setup\n"
        "setup(name='pb1-detectron2', version='0.6', packages=['detectron2'],\n"
        "      ext_modules=[Extension('detectron2._C', ['csrc/absent.cpp'])])\n"
    ),
    "detectron2/__init__.py": '__version__ = "0.6"\n',
    "detectron2/projects/__init__.py": "",
    "detectron2/data/__init__.py": "",
    "detectron2/data/transforms/__init__.py": "",
    "detectron2/data/transforms/transform.py": "interp = Image.LINEAR\n",
    "detectron2/evaluation/__init__.py": "",
    "detectron2/evaluation/fast_eval_api.py": "from detectron2 import _C\n",
    "detectron2/export/__init__.py": "from .api import *\nfrom .flatten import Adapter\n",
    "detectron2/export/api.py": "import caffe2_is_gone\n",
    "detectron2/export/flatten.py": "Adapter = 1\n",
    "detectron2/model_zoo/__init__.py": "",
    "detectron2/model_zoo/configs/Base.yaml": "VERSION: 2\n",
    "detectron2/model_zoo/configs/common/data/coco.py": "",
    "detectron2/structures.py": "np.bool; np.int; np.float(1); np.object; np.bool_; np.int64\n",
    "projects/DeepLab/deeplab/__init__.py": "",
    "projects/Panoptic-DeepLab/panoptic_deeplab/__init__.py": "",
    "projects/PointRend/point_rend/__init__.py": "",
}


@pytest.fixture
def script():
    """The script as a module, loaded anew so that a test may change it."""
    spec = importlib.util.spec_from_file_location("install_detectron2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An empty folder that pip uses as its only package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_sources(folder: Path, sources: dict[str, str]) -> Path:
    for name, text in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def write_sdist(folder: Path, sources: dict[str, str]) -> str:
    """Write the archive that pip looks for and return its SHA-256."""
    archive = folder / "pb1-detectron2-0.6.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in sources.items():
            member = tarfile.TarInfo(f"pb1-detectron2-0.6/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def only_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


def test_leaves_an_importable_detectron2_alone_and_names_it(tmp_path):
    package = write_sources(tmp_path, {"detectron2/__init__.py": '__version__ = "0.7.dev1"\n'})
    (package / "detectron2-0.7.dev1.dist-info").mkdir()
    (package / "detectron2-0.7.dev1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: detectron2\nVersion: 0.7.dev1\n"
    )
    # An unreachable source: the run fails if it tries to install anything.
    result = run_python(SCRIPT, "--source", tmp_path / "nowhere", PYTHONPATH=str(package))
    assert result.returncode == 0, result.stderr
    assert only_line(result.stdout) == (
        f"Detectron2 0.7.dev1 in {package / 'detectron2'} is installed already; nothing was changed"
    )


def test_a_detectron2_that_cannot_be_imported_is_an_error(tmp_path):
    write_sources(tmp_path, {"detectron2/__init__.py": "import absent_module\n"})
    result = run_python(SCRIPT, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    line = only_line(result.stderr)
    assert str(tmp_path / "detectron2") in line and "absent_module" in line


@pytest.mark.parametrize("missing", ["torch", "torchvision", "setuptools"])
def test_names_the_package_that_has_to_be_there_first(script, monkeypatch, capsys, missing):
    def find_spec(name):
        return None if name in ("detectron2", missing) else object()

    monkeypatch.setattr(script.importlib.util, "find_spec", find_spec)
    assert script.main([]) == 1
    line = only_line(capsys.readouterr().err)
    assert f"{missing} is not installed for {sys.executable}" in line and "pip install" in line


def test_a_failed_download_is_one_line_with_the_way_out(script, index, tmp_path, capsys):
    assert script.main(["--wheel-only", str(tmp_path)]) == 1
    line = only_line(capsys.readouterr().err)
    assert "cannot download pb1-detectron2==0.6: No matching distribution found" in line
    assert "--source git+https://" in line


def test_an_archive_with_another_hash_is_refused_before_any_of_it_runs(
    script, index, tmp_path, capsys
):
    marker = tmp_path / "ran"
    found = write_sdist(index, {"setup.py": f"open({str(marker)!r}, 'w')\n"})
    assert script.main(["--wheel-only", str(tmp_path)]) == 1
    line = only_line(capsys.readouterr().err)
    assert f"has SHA-256 {found}, expected {script.SHA256}" in line
    assert not marker.exists()
    assert not list(tmp_path.glob("*.whl"))


def test_builds_a_pure_python_wheel_with_the_right_name_and_contents(
    script, index, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(script, "SHA256", write_sdist(index, SOURCES))
    assert script.main(["--wheel-only", str(tmp_path)]) == 0
    wheel = Path(only_line(capsys.readouterr().out))
    assert wheel == tmp_path / "detectron2-0.6+hiera.1-py3-none-any.whl"

    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read("detectron2-0.6+hiera.1.dist-info/METADATA").decode()
    expected = {name for name in SOURCES if name.startswith("detectron2/")} | {
        "detectron2/_C.py",
        "detectron2/projects/deeplab/__init__.py",
        "detectron2/projects/panoptic_deeplab/__init__.py",
        "detectron2/projects/point_rend/__init__.py",
    }
    assert {name for name in names if ".dist-info/" not in name} == expected

    fields = Parser().parsestr(metadata)
    assert (fields["Name"], fields["Version"]) == ("detectron2", "0.6+hiera.1")
    requirements = fields.get_all("Requires-Dist")
    assert "setuptools<81" in requirements and "fvcore>=0.1.5" in requirements
    assert not any(requirement.startswith("black") for requirement in requirements)


def test_patches_what_newer_libraries_broke_and_nothing_else(script, tmp_path):
    source = write_sources(tmp_path, SOURCES)
    script.patch(source)
    package = source / "detectron2"
    transform = (package / "data" / "transforms" / "transform.py").read_text()
    assert transform == "interp = Image.BILINEAR\n"
    assert (package / "structures.py").read_text() == (
        "bool; int; float(1); object; np.bool_; np.int64\n"
    )
    # `export` imports without Caffe2 and keeps the rest.
    code = "import detectron2.export; print(detectron2.export.Adapter)"
    result = run_python("-c", code, PYTHONPATH=str(source))
    assert result.stdout == "1\n", result.stderr


@pytest.mark.parametrize(
    "file", ["data/transforms/transform.py", "structures.py", "export/__init__.py"]
)
def test_sources_in_which_a_fix_finds_nothing_are_refused(script, tmp_path, file):
    source = write_sources(tmp_path, {**SOURCES, f"detectron2/{file}": ""})
    with pytest.raises(script.InstallError, match="does not hold the sources of Detectron2 0.6"):
        script.patch(source)


class TestInstalled:
    """The Detectron2 of this environment, where this script put it there."""

    @pytest.fixture(autouse=True)
    def ours(self, script):
        found = importlib.metadata.version("detectron2")  # of several the one that is imported
        if found != script.VERSION:
            pytest.skip(f"Detectron2 here is {found}, not the one of the script")

    def test_compiled_functions_fail_with_a_clear_message_when_called(self):
        import torch
        from detectron2 import _C
        from detectron2.layers import nms_rotated
        from detectron2.layers.rotated_boxes import pairwise_iou_rotated

        boxes = torch.zeros(1, 5)
        for call, name in (
            (lambda: _C.deform_conv_forward(), "deform_conv_forward"),
            (lambda: pairwise_iou_rotated(boxes, boxes), "box_iou_rotated"),
            (lambda: nms_rotated(boxes, torch.zeros(1), 0.5), "nms_rotated"),
        ):
            with pytest.raises(NotImplementedError, match=rf"_C\.{name} is compiled code"):
                call()

    def test_no_name_is_left_that_pillow_or_numpy_dropped(self):
        import numpy as np
        from detectron2.data.transforms import ExtentTransform
        from detectron2.structures import BitMasks
        from detectron2.structures.masks import polygons_to_bitmask

        image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        assert np.array_equal(ExtentTransform((0, 0, 4, 4), (4, 4)).apply_image(image), image)
        mask = polygons_to_bitmask([np.array([0.0, 0, 2, 0, 2, 2, 0, 2])], 4, 4)
        assert mask.dtype == bool and mask.sum() == 4
        assert BitMasks(mask[None]).tensor.sum() == 4

    def test_coco_evaluation_gives_the_average_precision(self):
        # Of two objects one is found exactly: precision 1 up to recall 0.5, which 51 of the 101
        # recall thresholds 0, 0.01, ..., 1 do not exceed.
        from detectron2.evaluation.fast_eval_api import COCOeval_opt
        from pycocotools.coco import COCO

        boxes = [[10, 10, 50, 50], [20, 20, 40, 60]]
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i, "height": 100, "width": 100} for i in (1, 2)],
            "categories": [{"id": 1, "name": "thing"}],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1, "bbox": box, "iscrowd": 0}
                | {"area": box[2] * box[3]}
                for i, box in enumerate(boxes, start=1)
            ],
        }
        truth.createIndex()
        found = truth.loadRes([{"image_id": 1, "category_id": 1, "bbox": boxes[0], "score": 0.9}])
        evaluation = COCOeval_opt(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(51 / 101)
