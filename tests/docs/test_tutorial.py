"""The tutorial works as it is printed: its blocks are run in order in an empty folder.

Only the number of training iterations is made smaller.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import REPOSITORY, page_blocks, run_script

pytest.importorskip("plotly", reason="the tutorial's report needs plotly")


class Block(NamedTuple):
    kind: str
    title: str
    text: str


class Run(NamedTuple):
    command: str
    output: str
    expected: str  # what the page shows as its output


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An empty folder beside the repository, as the page has it."""
    parent = tmp_path_factory.mktemp("tutorial")
    (parent / "hiera_seg").symlink_to(REPOSITORY)
    (parent / "my_street").mkdir()
    return parent / "my_street"


@pytest.fixture(scope="module")
def runs(folder) -> list[Run]:
    """Save the files and run the commands of the page, in its order."""
    blocks = [Block(*found) for found in page_blocks("docs/tutorial.md")]
    found = []
    for index, block in enumerate(blocks):
        if block.title and block.kind != "text":
            (folder / block.title).write_text(shorter(block), encoding="utf-8")
            continue
        after = blocks[index + 1] if index + 1 < len(blocks) else Block("", "", "")
        expected = after.text if after.kind == "text" and not after.title else ""
        for arguments in commands(block, folder):
            done = run_script(*arguments, cwd=folder)
            assert done.returncode == 0, f"{arguments}: {done.stderr[-3000:]}"
            found.append(Run(" ".join(arguments), done.stdout, expected))
    return found


def shorter(block: Block) -> str:
    if block.title != "my_street.yaml":
        return block.text
    text, changes = re.subn(r"(MAX_ITER|WARMUP_ITERS|EVAL_PERIOD): \d+", r"\1: 2", block.text)
    assert changes == 3
    return text


def commands(block: Block, folder: Path) -> Iterator[list[str]]:
    """Scripts with their arguments; every line of the page's commands runs a Python script."""
    if block.kind == "bash":
        for line in block.text.replace("\\\n", " ").splitlines():
            program, *arguments = shlex.split(line)
            assert program == "python", line
            yield arguments
    elif block.kind == "python":
        (folder / "block.py").write_text(block.text, encoding="utf-8")
        yield ["block.py"]


def test_commands_print_what_the_page_shows(runs):
    shown = [run for run in runs if run.expected]
    assert len(shown) == 2
    for run in shown:
        assert run.expected.strip() in run.output, run.command


def test_predictions_and_numbers_are_there(runs, folder):
    assert len(list((folder / "look").glob("*.png"))) == 4
    assert (folder / "output" / "model_final.pth").is_file()
    assert "street_val" in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "predictions" / "048-levels.png").is_file()
    assert (folder / "predictions" / "059_group.png").is_file()
    metrics, prediction = (run.output for run in runs if run.command == "block.py")
    assert [line.split()[0] for line in metrics.splitlines()] == [
        "mIoU_group", "mIoU_class", "consistency", "tree_distance",
    ]  # fmt: skip
    assert prediction.startswith("torch.Size([96, 128]) {")
