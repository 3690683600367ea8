"""Read config files and KEY VALUE pairs of unknown origin without executing code."""

import io
import re
from collections.abc import Iterable, Iterator

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

from hiera_seg import add_hiera_seg_config, model_zoo
from hiera_seg.cli.arguments import REMOTE_SWITCH
from hiera_seg.config import map_old_keys
from hiera_seg.config.checks import check_addresses, items_of, remote_scheme, value_of
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy.messages import listing, nearest, suggestion

MAX_DEPTH = 100  # of brackets in a config file
MAX_NODES = 100_000  # values of a config file, with aliases expanded


def load_config(config_file: str, opts: list[str], *, allow_remote: bool = False) -> CfgNode:
    """Read a config file and the KEY VALUE pairs of a command line.

    MODEL.DEVICE becomes "cpu" if it names a GPU and there is none.

    Args:
        config_file: a yaml file, or a name of :mod:`hiera_seg.model_zoo` if no such file exists;
            "" reads none.
        opts: alternating keys and values.
        allow_remote: whether ``_BASE_`` may be an address, which is then downloaded.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, a value has the wrong type, or a
            key other than MODEL.WEIGHTS holds an address.
    """
    refuse_switches(opts)
    cfg = get_cfg()
    stock = dict(items_of(cfg))
    add_hiera_seg_config(cfg)
    defaults = [(key, value) for key, value in items_of(cfg) if key not in stock]
    if config_file:
        try:
            _merge_file(cfg, config_file, allow_remote)
            cfg = map_old_keys(cfg)  # before the options, which have priority over the file
        except ValueError as error:  # a ConfigError, or that of yacs for an old key
            raise ConfigError(f"config file {config_file}: {error}") from error
    before = cfg.clone()
    try:
        cfg.merge_from_list(opts)
        cfg = map_old_keys(cfg, before)
    except Exception as error:
        raise ConfigError(f"options {' '.join(opts)}: {_reason(error, cfg)}") from error
    _refuse_none(cfg, defaults)
    check_addresses(cfg)
    _choose_device(cfg)
    return cfg


def refuse_switches(opts: Iterable[object]) -> None:
    """Check that no switch is among the KEY VALUE pairs, which take all remaining words.

    Raises:
        ConfigError: there is a switch.
    """
    for word in opts:
        if isinstance(word, str) and word.startswith("--"):
            raise ConfigError(f"{word} is after KEY VALUE pairs; put switches before them")


def _merge_file(cfg: CfgNode, config_file: str, allow_remote: bool) -> None:
    if remote_scheme(config_file):
        raise ConfigError("is an address; download it and name the local copy")
    if not PathManager.isfile(config_file):
        known = model_zoo.config_names()
        if config_file.removeprefix("configs/") not in known:
            near = suggestion(config_file, known)
            raise ConfigError(f"it does not exist and is not in the model zoo{near}")
        config_file = model_zoo.get_config_file(config_file)
    try:
        _check_files(config_file, allow_remote)
    except RecursionError as error:
        raise ConfigError("its _BASE_ files include each other") from error
    except Exception as error:
        raise ConfigError(_file_reason(error, cfg)) from error
    try:
        cfg.merge_from_file(config_file, allow_unsafe=False)
    except (RecursionError, MemoryError) as error:  # raised for a text that is read as a literal
        raise ConfigError("the brackets or signs of a value are nested too deeply") from error
    except Exception as error:
        raise ConfigError(_file_reason(error, cfg)) from error


def _check_files(config_file: str, allow_remote: bool) -> None:
    """Open a config file and its bases as Detectron2 does, and check each before it is parsed."""

    class CheckedFiles(CfgNode):
        @classmethod
        def _open_cfg(cls, filename: str) -> io.StringIO:
            if remote_scheme(filename) and not allow_remote:
                raise ConfigError(
                    f"_BASE_ is the address {filename}; download it and name the local copy, "
                    f"or pass {REMOTE_SWITCH} if you trust it"
                )
            with PathManager.open(filename, "r") as file:
                stream = io.StringIO(file.read())
            stream.name = filename  # PyYAML names it in errors
            _check_nesting(stream)
            stream.seek(0)
            return stream

    CheckedFiles.load_yaml_with_base(config_file, allow_unsafe=False)


def _check_nesting(stream: io.StringIO) -> None:
    """Refuse brackets that are nested too deeply and aliases that expand to too many values.

    The events of PyYAML are read one by one; no value is built before the check.
    """
    stack: list[tuple[str | None, int]] = []  # anchors of open containers, values before them
    sizes: dict[str, int] = {}  # values below each anchor, with aliases expanded
    total = 0
    for event in yaml.parse(stream, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = stack.pop()
            if anchor:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in stack):
                raise ConfigError(f"{_place(event)}: *{event.anchor} contains itself")
            total += sizes.get(event.anchor, 1)
        if len(stack) > MAX_DEPTH:
            raise ConfigError(f"{_place(event)}: brackets are nested more than {MAX_DEPTH} deep")
        if total > MAX_NODES:
            raise ConfigError(
                f"{_place(event)}: more than {MAX_NODES} values, with aliases expanded"
            )


def _place(event: yaml.Event) -> str:
    return f"{event.start_mark.name}, line {event.start_mark.line + 1}"


def _refuse_none(cfg: CfgNode, defaults: list[tuple[str, object]]) -> None:
    """Refuse None, which yacs allows for every key, where the default is a value."""
    for key, default in defaults:
        if default not in (None, "") and value_of(cfg, key) is None:
            raise ConfigError(f"{key} is None; its default is {default!r}")


def _choose_device(cfg: CfgNode) -> None:
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise ConfigError(
            f'MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; choose "cuda", "cuda:1" or "cpu"',
            key="MODEL.DEVICE",
            value=cfg.MODEL.DEVICE,
        ) from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"


def _file_reason(error: Exception, cfg: CfgNode) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return _yaml_reason(error)
    if isinstance(error, TypeError | AttributeError):
        return (
            "the file or a _BASE_ of it is not a mapping of keys to values, such as "
            f"MODEL: {{DEVICE: cpu}} ({_reason(error, cfg)})"
        )
    return _reason(error, cfg)


def _yaml_reason(error: yaml.MarkedYAMLError) -> str:
    """Return file, line and problem of a YAML error, which may be in a base."""
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}: " if mark is not None else ""
    tag = re.search(r"tag:yaml\.org,2002:(python/[^\s']+)", error.problem or "")
    if tag:
        return (
            f"{where}the tag !!{tag[1]} is refused (it could execute code); write plain values, "
            "and lists instead of tuples"
        )
    return f"{where}{error.problem or error}"


def _reason(error: Exception, cfg: CfgNode) -> str:
    if isinstance(error, OSError | UnicodeError):
        return str(error)
    # str(KeyError) is the repr of its message; an AssertionError may have none
    text = str(error.args[0]) if error.args else type(error).__name__
    unknown = re.fullmatch(r"Non-existent (?:config )?key: (\S+)", text)
    return text + _nearest_keys(unknown[1], cfg) if unknown else text


def _nearest_keys(unknown: str, cfg: CfgNode) -> str:
    """Return "; nearest: ..." with keys that have the same last name or a similar one."""
    last = unknown.rpartition(".")[2].casefold()
    keys = list(_keys(cfg))
    same = [key for key in keys if key.rpartition(".")[2].casefold() == last]
    close = list(dict.fromkeys([*nearest(unknown, same), *same, *nearest(unknown, keys)]))[:3]
    return f"; nearest: {listing(close)}" if close else ""


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")
