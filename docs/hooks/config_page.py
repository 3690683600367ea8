"""Make the page of all config keys from hiera_seg/config/defaults.py."""

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from hiera_seg import add_hiera_seg_config
from hiera_seg.config.defaults import OLD_KEYS, set_defaults

INTRODUCTION = """\
# Config keys

Every key that `add_hiera_seg_config` adds to a config, with its default. This page is made from
`hiera_seg/config/defaults.py` when the site is built. All other keys are Detectron2's and keep its
meaning. They are set in a yaml file, or on the command line after all other arguments:

    python tools/train_net.py --config-file configs/CamVid/hssn_deeplab_v3_plus_r18.yaml \\
        SOLVER.MAX_ITER 1000 MODEL.HIERA_SEG.TEST.DECODE leaf
"""

FUNCTIONS = """
## Functions

::: hiera_seg.config
    options:
      show_root_heading: false
      show_root_toc_entry: false
      heading_level: 3
"""


@dataclass
class Section:
    """The keys below one node of a config.

    Attributes:
        name: the node, such as ``MODEL.HIERA_SEG.TEST``.
        comment: the comment on the node.
        keys: last part of the key, default, comment.
    """

    name: str
    comment: str = ""
    keys: list[tuple[str, Any, str]] = field(default_factory=list)


def config_page() -> str:
    """Return the page as markdown."""
    lines = [INTRODUCTION]
    for section in hiera_seg_sections():
        lines += [
            f"## {section.name or 'Top level'}",
            "",
            *([section.comment, ""] if section.comment else []),
        ]
        lines += table(section)
    lines += [
        "## From Detectron2's DeepLab project",
        "",
        "Keys of `detectron2.projects.deeplab`, which `add_hiera_seg_config` adds as well.",
        "",
    ]
    for section in deeplab_sections():
        lines += [f"### {section.name}", "", *table(section)]
    if OLD_KEYS:
        lines += ["## Old keys", "", "Keys of version 0.1, which are read with a warning.", ""]
        lines += ["| old key | new key |", "|---|---|"]
        lines += [f"| `{old}` | `{new}` |" for old, new in OLD_KEYS.items()]
    return "\n".join(lines) + FUNCTIONS


def table(section: Section) -> list[str]:
    rows = [
        f"| `{name}` | `{cell(show(value))}` | {link_pages(cell(comment))} |"
        for name, value, comment in section.keys
    ]
    return ["| key | default | |", "|---|---|---|", *rows, ""]


def show(value: Any) -> str:
    return repr(value).replace("'", '"')


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def link_pages(text: str) -> str:
    """Replace docs/losses.md by a link to it from a page in a folder beside it."""
    return re.sub(r"docs/(\w+\.md)", r"[\g<0>](../\1)", text)


def hiera_seg_sections() -> list[Section]:
    """Return the keys that add_hiera_seg_config adds to Detectron2 and its DeepLab project."""
    before, after = get_cfg(), get_cfg()
    add_deeplab_config(before)
    add_hiera_seg_config(after)
    return sections(before, after, set_defaults)


def deeplab_sections() -> list[Section]:
    """Return the keys that add_deeplab_config adds to those of Detectron2."""
    before, after = get_cfg(), get_cfg()
    add_deeplab_config(after)
    return sections(before, after, add_deeplab_config)


def sections(before: CfgNode, after: CfgNode, function: Callable[[CfgNode], None]) -> list[Section]:
    """Return the keys that differ in two configs, with comments of the function that adds them."""
    stock, comments = dict(flat(before)), comments_of(function)
    found: dict[str, Section] = {}
    for key, value in flat(after):
        if key in OLD_KEYS:
            continue
        if key not in stock or stock[key] != value:
            node, _, name = key.rpartition(".")
            section = found.setdefault(node, Section(node, comments.get(node, "")))
            section.keys.append((name, value, comments.get(key, "")))
    return list(found.values())


def flat(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all keys of a config with their values, first those of a node, then its children's."""
    for name, value in node.items():
        if not isinstance(value, CfgNode):
            yield prefix + name, value
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from flat(value, f"{prefix}{name}.")


def comments_of(function: Callable[[CfgNode], None]) -> dict[str, str]:
    """Return the comment above and beside each key in a function that adds config keys.

    A comment on ``cfg.A = CN({"B": 0})`` belongs to ``A.B``, one on ``cfg.A = CN()`` to the node
    ``A``.
    """
    source = textwrap.dedent(inspect.getsource(function))
    above, beside = read_comments(source)
    aliases = {ast.parse(source).body[0].args.args[0].arg: ""}
    comments = {}
    for statement in ast.parse(source).body[0].body:
        if not isinstance(statement, ast.Assign):
            continue
        target, value = statement.targets[0], statement.value
        if isinstance(target, ast.Name):  # hiera = cfg.MODEL.HIERA_SEG
            aliases[target.id] = full_key(value, aliases)
            continue
        key = full_key(target, aliases)
        texts = []
        line = statement.lineno - 1
        while line in above:
            texts.insert(0, above[line])
            line -= 1
        texts += [
            beside[n] for n in range(statement.lineno, statement.end_lineno + 1) if n in beside
        ]
        options = value.args[0].keys if isinstance(value, ast.Call) and value.args else []
        for name in [f"{key}.{option.value}" for option in options] or [key]:
            comments[name] = " ".join(texts)
    return comments


def read_comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """Return comments by line: those that have their own line, and those after code."""
    above, beside = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            (above if alone else beside)[token.start[0]] = token.string.lstrip("# ")
    return above, beside


def full_key(node: ast.expr, aliases: dict[str, str]) -> str:
    """``hiera.TEST.DECODE`` -> ``MODEL.HIERA_SEG.TEST.DECODE``."""
    first, _, rest = ast.unparse(node).partition(".")
    return ".".join(filter(None, [aliases[first], rest]))
