"""Parse YAML and JSON text into nodes that keep line numbers and duplicate keys.

The standard loaders drop both, and the YAML loader is recursive. No tag creates an object.
"""

import json
import re
from typing import Any

import yaml

from hiera_seg.hierarchy.inputs import ListNode, MapNode, Scalar
from hiera_seg.hierarchy.messages import fail

_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq")} | {"!", None}

# Maximum nesting of lists in lists and of brackets in keys. No tree needs them, and PyYAML takes a
# minute for ten thousand. Groups in groups, {a: {b: ...}}, may be nested to any depth.
MAX_BRACKETS = 100

_JSON_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|[^\s,:{}\[\]"]+')  # of valid JSON


class _Builder:
    """Build nested nodes from a flat sequence of events."""

    def __init__(self, origin: str) -> None:
        self.root: Any = None
        self._origin = origin
        # container; in a mapping, the key whose value comes next; number of brackets down to here
        self._open: list[tuple[Any, list[Any], int]] = []

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
        outer, pending, brackets = self._open[-1] if self._open else (None, [], 0)
        is_name = isinstance(outer, MapNode) and not pending
        brackets += is_name or isinstance(node, ListNode)
        if brackets > MAX_BRACKETS:
            fail(
                f"brackets are nested more than {MAX_BRACKETS} deep; write groups by their names, "
                "such as {vehicle: {two_wheeled: [bicycle]}}",
                self._origin,
                node.line,
            )
        self._open.append((node, [], brackets))

    def end(self) -> None:
        self.value(self._open.pop()[0])


def read_yaml(text: str, origin: str) -> Any:
    """Parse one YAML document."""
    builder = _Builder(origin)
    documents = 0
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_event():
            event = loader.get_event()
            line = event.start_mark.line + 1
            if getattr(event, "tag", None) not in _PLAIN_TAGS:
                tag = event.tag.replace("tag:yaml.org,2002:", "!!")
                fail(f"tag {tag} is not allowed; a hierarchy file is plain data", origin, line)
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    fail("a second document starts here; keep one per file", origin, line)
            elif getattr(event, "anchor", None) is not None:
                mark = "alias *" if isinstance(event, yaml.AliasEvent) else "anchor &"
                fail(f"{mark}{event.anchor} is not allowed; write the nodes out", origin, line)
            elif isinstance(event, yaml.ScalarEvent):
                builder.value(_yaml_scalar(loader, event, line))
            elif isinstance(event, yaml.MappingStartEvent):
                builder.start(MapNode([], line))
            elif isinstance(event, yaml.SequenceStartEvent):
                builder.start(ListNode([], line))
            elif isinstance(event, yaml.CollectionEndEvent):
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
        fail("the file is empty; it needs the key 'tree'", origin)
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
        value = NotImplemented  # neither text nor a valid value, such as 2020-99-99
    return Scalar(value, event.value, line)


def read_json(text: str, origin: str) -> Any:
    """Parse one JSON document."""
    try:
        json.loads(text)
    except ValueError as error:  # includes Python's limit on the digits of a number
        line = getattr(error, "lineno", None)
        fail(f"not a JSON file: {getattr(error, 'msg', error)}", origin, line)
    except RecursionError:
        fail("brackets are nested too deeply for JSON; use YAML", origin)
    builder = _Builder(origin)
    line, counted = 1, 0
    for match in _JSON_TOKENS.finditer(text):
        line += text.count("\n", counted, match.start())
        counted, token = match.start(), match[0]
        if token in ("{", "["):
            builder.start(MapNode([], line) if token == "{" else ListNode([], line))
        elif token in ("}", "]"):
            builder.end()
        else:
            value = json.loads(token)
            builder.value(Scalar(value, value if isinstance(value, str) else token, line))
    return builder.root
