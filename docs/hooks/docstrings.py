"""Griffe extension that converts docstrings to markdown.

Sphinx roles, ``:func:`name```, become links if the site has the name. Double backquotes and the
``::`` before a block of code are replaced by their counterparts in markdown.
"""

import ast
import inspect
import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`~?([\w.]+)`")
CODE_FOLLOWS = re.compile(r"^(.*?)(\S?)::$", flags=re.MULTILINE)
RETURNS = re.compile(r"^Returns:\n +(?=\S)", flags=re.MULTILINE)
LITERAL = re.compile(r"(?<!`)``(?!`)([^`]+)``(?!`)")


def as_markdown(text: str) -> str:
    """Return a docstring with its reStructuredText converted to markdown."""

    def role(match: re.Match) -> str:
        name = match[1]
        code = f"<code>{name.removeprefix('hiera_seg.')}</code>"
        return f'<autoref identifier="{name}" optional>{code}</autoref>'

    def colon(match: re.Match) -> str:
        return match[1] + (f"{match[2]}:" if match[2] else "")

    return LITERAL.sub(r"`\1`", CODE_FOLLOWS.sub(colon, ROLE.sub(role, text)))


def with_type(text: str, type_name: str) -> str:
    """Put the type before the text of "Returns:", whose part up to a colon would be read as one."""
    return RETURNS.sub(rf"\g<0>{type_name}: ", text)


def assigned_docstrings(module: ast.AST) -> dict[str, str]:
    """Return the docstrings that a module assigns by ``NAME.__doc__ = "..."``."""
    return {
        node.targets[0].value.id: inspect.cleandoc(node.value.value)
        for node in getattr(module, "body", [])
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Attribute)
        and node.targets[0].attr == "__doc__"
    }


class Markdown(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        if func.docstring is not None and func.returns is not None:
            type_name = str(func.returns).replace("\\", r"\\")
            func.docstring.value = with_type(func.docstring.value, type_name)

    def on_module_members(self, *, node: ast.AST, mod: griffe.Module, **_: Any) -> None:
        if mod.is_init_module:  # names that a package imports from its modules are public
            for member in mod.members.values():
                if member.is_alias and member.target_path.startswith("hiera_seg."):
                    member.public = True
        for name, text in assigned_docstrings(node).items():
            mod.members[name].docstring = griffe.Docstring(as_markdown(text), parent=mod[name])
