"""The page of config keys has every key, its default and what it means."""

import re

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from hiera_seg.config.checks import items_of
from hiera_seg.config.defaults import OLD_KEYS
from tests.helpers import new_config


@pytest.fixture(scope="module")
def rows(hook) -> dict[str, tuple[str, str]]:
    """Full key: default and comment, read from the page's text."""
    found, section = {}, ""
    for line in hook("config_page").config_page().splitlines():
        if match := re.match(r"##+ ([A-Z_.]+)$", line):
            section = match[1]
        elif match := re.match(r"\| `(\w+)` \| `(.*?)` \| (.*) \|$", line):
            # keys of the top level come first, and have no section
            found[f"{section}.{match[1]}".lstrip(".")] = (match[2], match[3])
    return found


def test_every_key_is_there_with_its_default(rows):
    stock = dict(items_of(get_cfg()))
    added = {
        key: value
        for key, value in items_of(new_config())
        if key not in stock and key not in OLD_KEYS
    }
    assert len(added) > 60
    assert set(rows) == set(added)
    for key, value in added.items():
        assert rows[key][0] == repr(value).replace("'", '"'), key


def test_every_key_of_the_package_says_what_it_is(rows):
    cfg = get_cfg()
    add_deeplab_config(cfg)
    others = dict(items_of(cfg))
    silent = [key for key, (_, comment) in rows.items() if not comment and key not in others]
    assert silent == [], "give each a comment in hiera_seg/config/defaults.py"


def test_a_comment_stands_above_or_beside(hook):
    def add_keys(cfg):
        # Two lines
        # of comment.
        cfg.A = CfgNode()
        cfg.A.B = 1
        b = cfg.A

        # Of both.
        b.C = CfgNode({"D": 1, "E": 2})
        b.F = 3  # beside

    assert hook("config_page").comments_of(add_keys) == {
        "A": "Two lines of comment.",
        "A.B": "",
        "A.C.D": "Of both.",
        "A.C.E": "Of both.",
        "A.F": "beside",
    }
