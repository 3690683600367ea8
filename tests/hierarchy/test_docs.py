"""Examples of docs/hierarchy.md run, its tables are equal, its errors are as printed."""

import re
from functools import partial

import pytest

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy import Hierarchy, builtin_names
from tests.helpers import code_blocks, read_page, run_code

PAGE = "docs/hierarchy.md"
blocks = partial(code_blocks, PAGE)


def test_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "street.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    run_code(PAGE)
    assert capsys.readouterr().out == blocks("text")[0]


def test_tables_are_the_same_tree(tmp_path):
    (tmp_path / "street.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    h = Hierarchy.load(tmp_path / "street.yaml")
    tables = blocks("csv")
    assert len(tables) == 3
    for number, table in enumerate(tables):
        (tmp_path / "street.csv").write_text(table, encoding="utf-8")
        loaded = Hierarchy.load(tmp_path / "street.csv")
        assert loaded.paths == h.paths
        assert (loaded == h) == (number == 0)  # only the first form names the levels


def test_built_in_trees_are_named():
    listed = re.search(r"trees:((?:\s*`\w+`[,\s]*(?:and)?)+)", read_page(PAGE))
    assert sorted(re.findall(r"`(\w+)`", listed[1])) == list(builtin_names())


BROKEN = [
    "tree:\n  a: [b]\n  flat:\n  - road\n  sky:\n  question:\n  answer:\n  - yes_\n  - no\n",
    "tree:\n  flat: [road]\n\n  vehicle:\n    car:\n    truck:\n    car:\n",
    "tree:\n  flat:\n  - road\n  - path\n\n  vehicle: []\n",
    "name: street\nlevels: [group, class]\ntree: {a: {b: [c]}}\n",
    "name: street\nlevels: [class]\nleaf_order: [rood, car]\ntree: [road, car]\n",
    "tree:\n\n\n\n\n\n  flat: [road, car\n",
    "level: [group]\ntree: [a]\n",
    "node,parent\ncar,vehicle\nvehicle,\ncar,toy\ntoy,\n",
    "node,parent\nbus,\ncar,vehicle\nvehicle,car\n",
]


@pytest.mark.parametrize("number", range(11))
def test_errors_are_quoted_as_printed(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quoted = blocks("text")[1].splitlines()
    assert len(quoted) == 11
    with pytest.raises(HierarchyError) as caught:
        if number < len(BROKEN):
            name = quoted[number].split(":")[0]
            (tmp_path / name).write_text(BROKEN[number], encoding="utf-8")
            Hierarchy.load(name)
        elif number == 9:
            (tmp_path / "street.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
            Hierarchy.load("street.yaml").id("trcuk")
        else:
            Hierarchy.from_paths(["a/other", "b/other"]).id("other")
    assert str(caught.value) == quoted[number]
