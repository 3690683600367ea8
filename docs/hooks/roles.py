"""Griffe extension: Sphinx roles in docstrings, ``:func:`name```, become code, linked if known."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`~?([\w.]+)`")
LITERAL = re.compile(r"(?<!`)``(?!`)([^`]+)``(?!`)")


def plain_code(text: str) -> str:
    """``:func:`hiera_seg.decode``` and double backquotes, as markdown."""

    def role(match: re.Match) -> str:
        name = match[1]
        code = f"<code>{name.removeprefix('hiera_seg.')}</code>"
        return f'<autoref identifier="{name}" optional>{code}</autoref>'

    return LITERAL.sub(r"`\1`", ROLE.sub(role, text))


class Roles(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = plain_code(obj.docstring.value)
