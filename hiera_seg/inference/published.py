"""Write and read inference files: weights, with all that is needed to predict with them.

An inference file is a safetensors file. Its tensors are the state of a model, matrices and kernels
in half precision. Its metadata has one json text under "hiera_seg":

============ ===================================================================================
version      of this layout, 1
hierarchy    the class tree, as ``Hierarchy.to_dict()``
config       the keys that rebuild the network and its input, such as MODEL.PIXEL_MEAN; none names a
             file
flip_pairs   pairs of node ids that swap in a mirrored image
node_counts  pixels by the path of the node, for MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT; or null
datasets     names of the training sets
metrics      of an evaluation, with "dataset" and "images"; or null
license      a note
sha256       of all of the above and of the tensors
============ ===================================================================================
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from torch import Tensor

from hiera_seg import add_hiera_seg_config
from hiera_seg.checkpoint import local_path, read_file
from hiera_seg.checkpoint.checkpointer import check_values
from hiera_seg.config.checks import check_addresses, value_of
from hiera_seg.config.resolve import changed_items
from hiera_seg.data.flips import swap_table
from hiera_seg.disk import replace_file
from hiera_seg.errors import CheckpointError, ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference.augmentation import mirrored_nodes
from hiera_seg.losses.node_weights import read_node_counts, write_node_counts
from hiera_seg.modeling import HieraSegmentor
from hiera_seg.modeling.build import build_model
from hiera_seg.modeling.segmentor import require_segmentor

VERSION = 1
LICENSE = (
    "Trained on {datasets}. The licences of these datasets apply to the weights; many forbid to "
    "redistribute them or to use them commercially. Check them before you share this file."
)
_METADATA = "hiera_seg"
_STORED = ("MODEL.", "INPUT.", "TEST.AUG.")
_ALWAYS = ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT")  # also with default values
_COUNTS = "MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT.FILE"
_NEVER = (  # files, what only training needs, and what depends on the machine
    "MODEL.WEIGHTS",
    "MODEL.DEVICE",
    "MODEL.HIERA_SEG.HIERARCHY",
    "MODEL.HIERA_SEG.MAP_CLASSES",
    "MODEL.HIERA_SEG.NODE_WEIGHTS.",
    "MODEL.HIERA_SEG.TIMM.CHECKPOINT",
    "MODEL.HIERA_SEG.TIMM.PRETRAINED",
    _COUNTS,
)


class Published(NamedTuple):
    """The content of an inference file.

    Attributes:
        cfg: a config of the model; MODEL.WEIGHTS is the file.
        model: the segmentor with its weights, in eval mode.
        about: the description in the file.
    """

    cfg: CfgNode
    model: HieraSegmentor
    about: dict[str, Any]


def publish(
    path: str | os.PathLike,
    cfg: CfgNode,
    model: HieraSegmentor,
    *,
    metrics: Mapping[str, Any] | None = None,
    license: str = "",
) -> None:
    """Write an inference file.

    Args:
        path: the file.
        cfg: the config of the model. Its datasets should be registered, for their ``flip_pairs``.
        model: with its weights.
        metrics: plain data to store with it.
        license: a note; "": `LICENSE` with the names of the training sets.

    Raises:
        ConfigError: the model is not a HieraSegmentor, the config holds a value that json cannot
            hold, or safetensors is not installed.
        OSError: the file cannot be written.
    """
    require_segmentor(model, "an inference file")
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise ConfigError(f"{path}: writing it requires `pip install safetensors`") from error
    tree, datasets = model.hierarchy, list(cfg.DATASETS.TRAIN)
    swap = mirrored_nodes(cfg, tree)
    pairs = [] if swap is None else [[v, w] for v, w in enumerate(swap.tolist()) if v < w]
    adjustment, node_counts = cfg.MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT, None
    if adjustment.TAU:
        pixels = read_node_counts(local_path(adjustment.FILE), tree).tolist()
        node_counts = dict(zip(tree.paths, pixels, strict=True))
    about = {
        "version": VERSION,
        "hierarchy": tree.to_dict(),
        "config": _changed_keys(cfg),
        "flip_pairs": pairs,
        "node_counts": node_counts,
        "datasets": datasets,
        "metrics": metrics,
        "license": license or LICENSE.format(datasets=", ".join(datasets) or "unknown datasets"),
    }
    state = {name: _halved(value.detach().cpu()) for name, value in model.state_dict().items()}
    about["sha256"] = _digest(about, state)
    content = save(state, {_METADATA: json.dumps(about)})
    replace_file(path, lambda file: file.write(content))


def load_published(path: str | os.PathLike) -> Published:
    """Read an inference file and build its network. Nothing in it is executed or downloaded.

    Args:
        path: a file of tools/publish_weights.py.

    Raises:
        CheckpointError: the file is missing, damaged, changed since it was written, or no inference
            file; or its network cannot be built. The message names the file.
    """
    path = os.fspath(path)
    about, state = _read(path)
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    key = "config"
    try:
        for key, value in about["config"].items():
            if not key.startswith(_STORED) or key.startswith(_NEVER):
                raise ConfigError("an inference file must not set this key")
            cfg.merge_from_list([key, value])
        key = "hierarchy"
        tree = Hierarchy.from_dict(**about["hierarchy"])
        key = "flip_pairs"
        swap_table(about["flip_pairs"], tree, tree)  # raises for pairs that are none
        key = "network"
        name = f"inference_file_{about['sha256']}"
        MetadataCatalog.get(name).set(hierarchy=about["hierarchy"], flip_pairs=about["flip_pairs"])
        cfg.DATASETS.TRAIN = (name,)
        cfg.MODEL.WEIGHTS = path  # so that backbones do not load weights of their own
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        check_addresses(cfg)
        model = _build(cfg, about["node_counts"])
        key = "tensors"
        check_values(model, state, path)
        model.load_state_dict(state)
    except Exception as error:  # yacs and parts of networks raise almost any error
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: this hiera_seg cannot use its {key}: {type(error).__name__}: {reason}; "
            "update hiera_seg, or publish the model again"
        ) from error
    return Published(cfg, model.eval(), about)


def _changed_keys(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys of `_STORED` that differ from their defaults, as plain data."""
    found = {key: value_of(cfg, key) for key in _ALWAYS} | {
        key: value
        for key, value in changed_items(cfg).items()
        if key.startswith(_STORED) and not key.startswith(_NEVER)
    }
    try:
        return json.loads(json.dumps(found))
    except TypeError as error:
        raise ConfigError(f"cannot store the config as json: {error}") from error


def _halved(value: Tensor) -> Tensor:
    """Return a matrix or kernel in half precision if its values fit, anything else unchanged.

    Vectors are small, and variances of batch norms may be too small or large for half precision.
    """
    if value.dim() > 1 and value.dtype == torch.float32:
        half = value.half()
        if torch.equal(half.isfinite(), value.isfinite()):
            return half.contiguous()
    return value.clone(memory_format=torch.contiguous_format)  # safetensors refuses shared memory


def _digest(about: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a description and of tensors: names, types, shapes and bytes."""
    described = {key: value for key, value in about.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(state):
        value = state[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the checked description and the tensors of a file."""
    state = read_file(path)
    try:
        from safetensors import SafetensorError, safe_open

        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_METADATA)
    except (ImportError, SafetensorError):  # the file is of another format that read_file reads
        text = None
    if text is None:
        raise CheckpointError(
            f'{path}: no inference file, it has no "{_METADATA}" in its metadata; write one with '
            "tools/publish_weights.py, or pass a config with MODEL.WEIGHTS"
        )
    try:
        about = json.loads(text)
        if (version := about.get("version")) != VERSION:
            raise ValueError(f"version {version!r}; this hiera_seg reads version {VERSION}")
        found, expected = _digest(about, state), about.get("sha256")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its description cannot be read: {error}") from error
    if found != expected:
        raise CheckpointError(
            f"{path}: its content has SHA-256 {found}, but {expected} when it was written; it was "
            "damaged or changed: copy or download it again"
        )
    return about, state


def _build(cfg: CfgNode, node_counts: dict[str, int] | None) -> HieraSegmentor:
    cfg = cfg.clone()
    with tempfile.TemporaryDirectory() as folder:
        if node_counts:  # which the head reads from a file
            file = str(Path(folder) / "counts.json")
            write_node_counts(file, node_counts)
            cfg.merge_from_list([_COUNTS, file])
        return require_segmentor(build_model(cfg), "an inference file")
