"""Griffe extension: docstrings are written for who reads the code; here they become markdown.

Sphinx roles, ``:func:`name```, are linked where the site has the name; double backquotes and the
``::`` before a block of code become their like.
"""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`~?([\w.]+)`")
CODE_FOLLOWS = re.compile(r"^(.*?)(\S?)::$", flags=re.MULTILINE)
LITERAL = re.compile(r"(?<!`)``(?!`)([^`]+)``(?!`)")


def as_markdown(text: str) -> str:
    """A docstring with what is not markdown in it turned into markdown."""

    def role(match: re.Match) -> str:
        name = match[1]
        code = f"<code>{name.removeprefix('hiera_seg.')}</code>"
        return f'<autoref identifier="{name}" optional>{code}</autoref>'

    def colon(match: re.Match) -> str:
        return match[1] + (f"{match[2]}:" if match[2] else "")

    return LITERAL.sub(r"`\1`", CODE_FOLLOWS.sub(colon, ROLE.sub(role, text)))


class Roles(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
