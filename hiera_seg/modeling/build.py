"""Building by config, where what Detectron2 refuses is told by the key that holds it."""

import contextlib
import traceback
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_any_model
from torch import nn

from hiera_seg.errors import ConfigError

_THEIRS = ("detectron2", "fvcore", "torch")
# By the last part of a key: what Detectron2 takes there.
_ALLOWED = {
    "DEPTH": "choose 18, 34, 50, 101 or 152",
    "NORM": 'choose "BN", "SyncBN", "FrozenBN", "GN", or "" for none',
}


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model that MODEL describes, as Detectron2's ``build_model`` does.

    Raises:
        ConfigError: Detectron2 refuses a value of the config, or knows no part of that name.
    """
    with refusals_named(cfg, "the model can not be built"):
        return build_any_model(cfg)


@contextlib.contextmanager
def refusals_named(cfg: CfgNode, what: str) -> Iterator[None]:
    """Within it errors by which Detectron2 refuses a value of a config become ConfigErrors.

    They are KeyErrors, AssertionErrors and ValueErrors of its own lines, or of torch's that it
    called. Errors of other code, a user's part among it, keep their traceback.

    Args:
        cfg: the config; its keys are looked through for the value.
        what: happened, for the message.
    """
    try:
        yield
    except (AssertionError, KeyError, ValueError) as error:
        unknown_part = isinstance(error, KeyError) and "registry" in str(error)
        if unknown_part:
            reason = f"the config names a part that is not there: {error.args[0]}"
        elif _is_theirs(error):
            reason = f"{what}: {_reason(error, cfg)}"
        else:
            raise
        raise ConfigError(" ".join(reason.split())) from error


def _is_theirs(error: Exception) -> bool:
    frames = [
        frame.f_globals.get("__name__", "").split(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    return frames[-1] in _THEIRS and set(frames) <= {"hiera_seg", *_THEIRS}


def _reason(error: Exception, cfg: CfgNode) -> str:
    value = error.args[0] if error.args else None
    if isinstance(error, KeyError) and isinstance(value, str | int):
        keys = [key for key, found in _values(cfg) if type(found) is type(value) and found == value]
        if keys:
            allowed = _ALLOWED.get(keys[0].rpartition(".")[2], "Detectron2 does not know it")
            return f"{' or '.join(keys[:3])} is {value!r}: {allowed}"
    if str(error) and not isinstance(error, KeyError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{str(error) or type(error).__name__} at `{last.line}`, {last.filename}:{last.lineno}"


def _values(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
