"""Where command lines write: what cannot be written is an error before the work."""

import ast

import pytest

from tests.helpers import CONFIGS, TOOLS

CONFIG = CONFIGS / "CamVid/flat_deeplab_v3_plus_r18.yaml"


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("benchmark", ["--sweep", "--json"]),
        ("benchmark", ["--sweep", "--plot"]),
        ("fast_dev_run", [CONFIG, "--table"]),
    ],
)
def test_a_file_in_what_is_no_folder_and_a_folder_for_a_file(tool, options, start_tool, tmp_path):
    (tmp_path / "file").touch()
    run = start_tool(tool)
    code, printed, error = run(*options, tmp_path / "file" / "x")
    assert (code, printed) == (2, "")
    assert error.startswith(f"error: {options[-1]}: cannot create the folder {tmp_path}/file: ")
    assert error.count("\n") == 1
    code, printed, error = run(*options, tmp_path)
    assert (code, printed) == (2, "")
    assert error == f"error: {options[-1]} {tmp_path} is a folder; name a file in it\n"


def test_labels_are_not_converted_into_a_file(start_tool, tmp_path):
    (tmp_path / "file").touch()
    code, _, error = start_tool("convert_labels")("hiera_camvid_val", tmp_path / "file")
    assert code == 2 and error.startswith(f"error: OUT: cannot create the folder {tmp_path}/file")


@pytest.mark.parametrize("tool", sorted(TOOLS.glob("*.py")), ids=lambda path: path.name)
def test_detectron2_is_first_loaded_by_the_package(tool):
    """Which does it without the warnings of its old calls, a page before every message."""
    names = []
    for node in ast.parse(tool.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module)
    of_both = [name for name in names if name.split(".")[0] in ("detectron2", "hiera_seg")]
    if any(name.startswith("detectron2") for name in of_both):
        assert of_both[0] == "hiera_seg.compat"
