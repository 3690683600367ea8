"""The notebook docs/quick_start.ipynb works: its code cells are run in order in an empty folder."""

import ast
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import REPOSITORY, run_python

NOTEBOOK = REPOSITORY / "docs" / "quick_start.ipynb"

# Runs the cells of a json file as Jupyter does, and shows the last expression of each.
RUNNER = """
import ast, json, sys
names = {"__name__": "__main__"}
shown = []
for number, source in enumerate(json.load(open(sys.argv[1])), 1):
    tree = ast.parse(source, f"cell {number}")
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"cell {number}", "exec"), names)
    value = last and eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
    if hasattr(value, "save"):
        value.save(f"cell_{number}.png")
json.dump({key: names["results"][key] for key in ("mIoU_group", "mIoU_class")}, open("r.json", "w"))
"""


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory) -> Path:
    """The folder in which the cells were run."""
    pytest.importorskip("cv2", reason="drawing needs OpenCV")
    folder = tmp_path_factory.mktemp("quick_start")
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (folder / "cells.json").write_text(json.dumps(sources), encoding="utf-8")
    done = run_python("-c", RUNNER, "cells.json", cwd=folder, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_notebook_trains_a_network_that_knows_the_shapes(folder):
    results = json.loads((folder / "r.json").read_text())
    assert results["mIoU_group"] > 75 and results["mIoU_class"] > 60
    lines = (folder / "output" / "shapes" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 100


def test_the_notebook_shows_a_scene_and_a_prediction(folder):
    shown = sorted(folder.glob("cell_*.png"))
    assert [path.name for path in shown] == ["cell_1.png", "cell_4.png"]
    widths = [Image.open(path).width for path in shown]
    assert widths[0] == 128 and widths[1] > 700


def test_the_notebook_is_a_valid_one_and_its_outputs_are_of_its_cells(cells):
    assert len({cell["id"] for cell in cells}) == len(cells)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        ast.parse("".join(cell["source"]))
    images = [out for cell in code for out in cell["outputs"] if "image/png" in out.get("data", {})]
    assert len(images) == 2


def test_a_notebook_becomes_a_page(hook):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": ["print(1)\n", "image"],
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["1\n"]},
                {"output_type": "execute_result", "data": {"image/png": "QUJD", "text/plain": "x"}},
            ],
        },
    ]
    assert hook("notebook_page").notebook_page({"cells": cells}) == (
        "# Title\ntext\n\n```python\nprint(1)\nimage\n```\n\n```text\n1\n\n```\n\n"
        "![output](data:image/png;base64,QUJD)"
    )
