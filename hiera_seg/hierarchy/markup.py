"""YAML and JSON text to nodes that keep their lines and duplicate keys.

The plain loaders swallow duplicate keys, forget lines, and recurse; these do not. Both are read
safely: no tag makes an object.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from hiera_seg.hierarchy.inputs import ListNode, MapNode, Scalar
from hiera_seg.hierarchy.messages import fail

_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq")} | {"!", None}


# Lists inside lists and brackets as names: no tree needs them, and PyYAML takes a minute to read
# some ten thousand of them. Groups inside groups, {a: {b: ...}}, may be nested to any depth.
MAX_BRACKETS = 100


class _Builder:
    """Builds nested nodes from a flat sequence of events."""

    def __init__(self, origin: str) -> None:
        self.root: Any = None
        self._origin = origin
        # container; in a mapping, the key whose value comes next; whether it counts as a bracket
        self._open: list[tuple[Any, list[Any], bool]] = []
        self._brackets = 0

    def value(self, node: Any) -> None:
        if not self._open:
            self.root = node
            return
        container, pending, _ = self._open[-1]
        if isinstance(container, ListNode):
            container.items.append(node)
        elif pending:
            container.items.append((pending.pop(), node))
        else:
            pending.append(node)

    def start(self, node: Any) -> None:
        outer, pending, _ = self._open[-1] if self._open else (None, [], False)
        is_name = isinstance(outer, MapNode) and not pending
        is_bracket = is_name or isinstance(node, ListNode)
        self._brackets += is_bracket
        if self._brackets > MAX_BRACKETS:
            fail(
                f"brackets are nested more than {MAX_BRACKETS} deep; write groups by their names, "
                "such as {vehicle: {two_wheeled: [bicycle]}}",
                self._origin,
                node.line,
            )
        self._open.append((node, [], is_bracket))

    def end(self) -> None:
        node, _, is_bracket = self._open.pop()
        self._brackets -= is_bracket
        self.value(node)


def read_yaml(text: str, origin: str) -> Any:
    """Parses one YAML document."""
    builder = _Builder(origin)
    documents = 0
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_event():
            event = loader.get_event()
            line = event.start_mark.line + 1
            if getattr(event, "tag", None) not in _PLAIN_TAGS:
                tag = event.tag.replace("tag:yaml.org,2002:", "!!")
                fail(f"tag {tag} is not allowed: a hierarchy file is plain data", origin, line)
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    fail("a second document: a hierarchy file holds one", origin, line)
            elif getattr(event, "anchor", None) is not None:
                mark = "alias *" if isinstance(event, yaml.AliasEvent) else "anchor &"
                fail(f"{mark}{event.anchor}: write the nodes out instead", origin, line)
            elif isinstance(event, yaml.ScalarEvent):
                builder.value(_yaml_scalar(loader, event, line))
            elif isinstance(event, yaml.MappingStartEvent):
                builder.start(MapNode([], line))
            elif isinstance(event, yaml.SequenceStartEvent):
                builder.start(ListNode([], line))
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                builder.end()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        if error.context_mark and mark and error.context_mark.line < mark.line:
            what += f" (begun on line {error.context_mark.line + 1})"
        fail(f"not a YAML file: {what}", origin, mark.line + 1 if mark else None)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        fail(f"not a YAML file: character {chr(error.character)!r} is not allowed", origin, line)
    if builder.root is None:
        fail("the file is empty: it needs the key 'tree'", origin)
    return builder.root


def _yaml_scalar(loader: yaml.SafeLoader, event: yaml.ScalarEvent, line: int) -> Scalar:
    if event.tag is not None:
        return Scalar(event.value, event.value, line)
    tag = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
    if tag == "tag:yaml.org,2002:str":
        return Scalar(event.value, event.value, line)
    try:
        value = loader.construct_object(yaml.ScalarNode(tag, event.value))
    except (yaml.YAMLError, ValueError):
        value = NotImplemented  # not text, and not a value either, as 2020-99-99
    return Scalar(value, event.value, line)


_SPACE = re.compile(r"[ \t\r\n]*")


def read_json(text: str, origin: str) -> Any:
    """Parses one JSON document."""
    decoder = json.JSONDecoder()
    builder = _Builder(origin)
    closers: list[str] = []
    line, counted, position = 1, 0, 0
    expected = "value"  # or "first" (value or key, or the closing bracket), "key", ":", ","
    if not text.strip():
        fail("the file is empty: it needs the key 'tree'", origin)
    while True:
        position = _SPACE.match(text, position).end()
        line += text.count("\n", counted, position)
        counted = position
        char = text[position : position + 1]
        if expected == "," and not closers:
            if char:
                fail(f"not a JSON file: text after the end, at {char!r}", origin, line)
            return builder.root
        closer = closers[-1] if closers else ""
        if expected in (",", "first") and char and char == closer:
            builder.end()
            closers.pop()
            position, expected = position + 1, ","
        elif expected in (",", ":"):
            if char != expected:
                _json_fail(
                    f"{expected!r} or {closer!r}" if expected == "," else "':'", char, origin, line
                )
            position += 1
            expected = "value" if expected == ":" or closer == "]" else "key"
        else:
            wants_key = expected == "key" or (expected == "first" and closer == "}")
            if wants_key and char != '"':
                _json_fail("a name in double quotes", char, origin, line)
            if char and char in "{[":
                builder.start(MapNode([], line) if char == "{" else ListNode([], line))
                closers.append("}" if char == "{" else "]")
                position, expected = position + 1, "first"
                continue
            try:
                value, end = decoder.raw_decode(text, position)
            except ValueError as error:  # also Python's own limit on the digits of a number
                fail(f"not a JSON file: {getattr(error, 'msg', error)}", origin, line)
            raw = value if isinstance(value, str) else text[position:end]
            builder.value(Scalar(value, raw, line))
            position, expected = end, ":" if wants_key else ","


def _json_fail(wanted: str, found: str, origin: str, line: int) -> None:
    shown = repr(found) if found else "the end of the file"
    fail(f"not a JSON file: expected {wanted}, found {shown}", origin, line)
