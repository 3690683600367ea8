"""What pages and epilogs tell a user to type is there: scripts, options, config files and keys."""

import argparse
import ast
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from hiera_seg.cli import argument_parser
from hiera_seg.cli import arguments as options
from hiera_seg.config.checks import items_of
from tests.helpers import REPOSITORY, new_config

PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "datasets").glob("*.md"),
        *(REPOSITORY / "projects").glob("*/*.md"),
        *(REPOSITORY / "tools").glob("*.py"),
    ]
)
SCRIPT = re.compile(r"(?:\.\./hiera_seg/)?((?:tools|datasets|docs/hooks)/\w+\.py)")
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*)")
CONFIG = re.compile(r"(?<![\w/.])((?:configs|projects)/[\w/.-]+\.(?:ya?ml|py))")
KEY = re.compile(r"(?<![\w.])([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)+)(?![\w.])")
OTHERS = {  # files of the repositories of Detectron2, MaskDINO, Mask2Former and OneFormer
    "configs/ade20k/oneformer_R50_bs16_160k.yaml",
    "configs/common/train.py",
    "configs/ade20k/semantic-segmentation/maskdino_R50_bs16_160k_steplr.yaml",
    "configs/ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml",
}
# By examples of losses of one's own, and OneFormer's
MADE_UP = {
    "MODEL.HIERA_SEG.SMALL_LOGITS",
    "MODEL.HIERA_SEG.PARENT_MEAN.POWER",
    "MODEL.TEST.TASK",
    "DATASETS.TEST_SEMANTIC",
    "MODEL.TEST.PANOPTIC_ON",
    "MODEL.TEST.INSTANCE_ON",
}


def text_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":  # a command line: what its --help prints
        strings = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
        text = "\n".join(string for string in strings if isinstance(string, str))
    return re.sub(r"\\\n\s*", " ", text)


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """Scripts that are run on a page, with the rest of their line."""
    for line in text_of(page).splitlines():
        for match in SCRIPT.finditer(line):
            rest = re.split(r"`|  +#|\s[|&;]\s", line[match.end() :])[0]
            yield match[1], SCRIPT.split(rest)[0]


@lru_cache
def options_of(script: str) -> frozenset[str]:
    """The long options that a script adds to its parser, or takes from the package's."""
    source = (REPOSITORY / script).read_text(encoding="utf-8")
    found = {"--help"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            found.update(a.value for a in node.args if isinstance(a, ast.Constant))
        name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
        if name == "argument_parser":
            given = {keyword.arg: keyword.value.value for keyword in node.keywords}
            found.update(argument_parser(**given)._option_string_actions)
        elif name.startswith("add_") and hasattr(options, name):
            parser = argparse.ArgumentParser()
            getattr(options, name)(parser)
            found.update(parser._option_string_actions)
    return frozenset(found)


@lru_cache
def config_keys() -> frozenset[str]:
    """Every key and node of a config, and the ends of its name that are no other key's beginning.

    HIERA_SEG.TEST.DECODE is one; TEST.DECODE would be looked for under TEST.
    """

    cfg = new_config()
    parts = [key.split(".") for key, _ in items_of(cfg)]
    keys = frozenset(".".join(names[:n]) for names in parts for n in range(1, len(names) + 1))
    ends = (key.split(".", n)[n] for key in keys for n in range(1, key.count(".") + 1))
    return keys | {end for end in ends if end.split(".")[0] not in cfg}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_a_page_names_is_there(page):
    for script, rest in commands(page):
        assert (REPOSITORY / script).is_file(), script
        unknown = set(OPTION.findall(rest)) - options_of(script)
        assert not unknown, f"{script}{rest}"
    text = text_of(page)
    for config in set(CONFIG.findall(text)) - OTHERS:
        if "..." not in config:
            assert any((folder / config).is_file() for folder in (REPOSITORY, page.parent)), config
    for key in set(KEY.findall(text)) - MADE_UP:
        assert key in config_keys(), key


def test_scripts_can_be_started_as_their_examples_have_it():
    scripts = [*(REPOSITORY / "tools").glob("*.py"), *(REPOSITORY / "datasets").glob("*.py")]
    for script in scripts:
        assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env python\n"), script
        assert os.access(script, os.X_OK), f"chmod +x {script}"


def test_pages_that_code_and_configs_send_a_reader_to_are_there():
    folders = ("hiera_seg", "tools", "configs", "projects", "datasets", "requirements")
    files = [file for folder in folders for file in (REPOSITORY / folder).rglob("*")]
    found = {
        page
        for file in files
        if file.suffix in (".py", ".yaml", ".txt", ".md")
        for page in re.findall(r"docs/\w+\.md", file.read_text(encoding="utf-8"))
    }
    assert "docs/losses.md" in found
    assert [page for page in sorted(found) if not (REPOSITORY / page).is_file()] == []


def test_commands_and_keys_are_found_where_they_are():
    assert sum(1 for page in PAGES for _ in commands(page)) > 60
    assert "--resume" in options_of("tools/train_net.py")
    assert "HIERA_SEG.TEST.DECODE" in config_keys() and "TEST.DECODE" not in config_keys()
