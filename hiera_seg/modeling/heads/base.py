"""Define the base class of heads, and read the config keys that all heads have."""

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.checkpoint import local_path
from hiera_seg.config import check_config, resolve_hierarchy, resolve_ignore_label
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.scores import NodeOutput, node_scores
from hiera_seg.layers.sibling_adjustment import SiblingAdjustment
from hiera_seg.losses import read_node_counts
from hiera_seg.modeling.decode import DECODE_KEY, decode_variant

_ADJUSTMENT_KEY = "MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT"
_SOFTMAX = ("marginal", "marginal_path_sum", "level_softmax")  # variants that can be adjusted


def accept_counts(function: Callable) -> Callable:
    """Decorator: accept the keyword ``counts`` of 0.1 for ``normalizer``, with a warning."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if "counts" in kwargs:
            _warn_renamed(f"{function.__qualname__}(counts=)", "normalizer=")
            kwargs["normalizer"] = kwargs.pop("counts")
        return function(*args, **kwargs)

    return wrapper


class AcceptsLabelCounts:
    """Mixin: the method ``label_counts`` of 0.1."""

    def label_counts(self, labels: Any) -> Tensor | None:
        """Return :meth:`label_normalizer`, with a warning."""
        _warn_renamed(f"{type(self).__name__}.label_counts", "label_normalizer")
        return self.label_normalizer(labels)


class HieraHead(AcceptsLabelCounts, nn.Module):
    """Base class of heads that predict the nodes of a class tree.

    A subclass sets the attributes below and defines ``layers(features, *, training)``,
    ``losses(output of layers, targets, normalizer)``, ``label_normalizer(targets)`` and
    ``node_output(features)``.

    Attributes:
        hierarchy: the class tree.
        ignore_value: the value of void in targets.
        loss_names: names of the losses that train it.
        output_kind: the kind of the NodeOutput, "logits" or "scores".
        output_stride: pixels of the network's input per position of the NodeOutput.
        decode_as: the decode variant of the leaf scores of :meth:`forward`.
    """

    hierarchy: Hierarchy
    ignore_value: int
    loss_names: tuple[str, ...]
    output_kind: str
    output_stride: int
    decode_as = "auto"

    @accept_counts
    def forward(
        self,
        features: dict[str, Tensor],
        targets: Tensor | None = None,
        normalizer: Tensor | None = None,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Compute losses in training and leaf scores in eval, as Detectron2's heads do.

        Args:
            features: backbone features (B, C, h, w) float by name.
            targets: (B, H, W) int64 node ids, void = ``ignore_value``; read in training only.
            normalizer: see :meth:`losses`; read in training only.

        Returns:
            In training None and {"loss_<name>": scalar}. In eval the decoded scores of the leaves
            (B, L, H, W) float at the size of the network's input, which meta-architectures crop and
            resize, and an empty dict; :class:`~hiera_seg.modeling.HieraSegmentor` calls
            ``node_output`` in place of this.
        """
        if self.training:
            return None, self.losses(self.layers(features), targets, normalizer)
        values, kind = self.node_output(features)
        values = F.interpolate(
            values if values.element_size() > 4 else values.float(),
            scale_factor=self.output_stride,
            mode="bilinear",
            align_corners=False,
        )
        variant = decode_variant(self.decode_as, self.loss_names, kind=kind)
        return node_scores(NodeOutput(values, kind), self.hierarchy, variant).leaves(), {}


def head_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Check the MODEL keys of a config, and return the arguments that all heads have.

    Raises:
        ConfigError: an invalid value; or the meta-architecture is PanopticFPN, whose
            ``combine_semantic_and_instance_outputs`` leaves class 0 of the semantic output to the
            box head, but leaf 0 does not stand for all things.
    """
    check_config(cfg, "MODEL.")
    hierarchy = resolve_hierarchy(cfg)
    first = hierarchy.leaf_names[0]
    if cfg.MODEL.META_ARCHITECTURE == "PanopticFPN" and first not in ("thing", "things"):
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is 'PanopticFPN', which takes leaf 0 for all things, but "
            f"leaf 0 of tree {hierarchy.name!r} is {first!r}; merge the classes of the box head "
            "into a leaf 'things', and put it first in leaf_order (docs/existing_train_net.md)"
        )
    return {
        "hierarchy": hierarchy,
        "ignore_value": resolve_ignore_label(cfg, hierarchy),
        "loss_weight": cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT,
        "seed": cfg.SEED if cfg.SEED >= 0 else None,
    }


def build_sibling_adjustment(
    cfg: CfgNode, hierarchy: Hierarchy, loss_names: Iterable[str], *, kind: str = "logits"
) -> SiblingAdjustment | None:
    """Build the adjustment of MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT, or None if TAU is 0.

    Raises:
        ConfigError: a negative TAU, no FILE or an unreadable one, or a model that is not decoded by
            a softmax over leaves or per level.
    """
    test = cfg.MODEL.HIERA_SEG.TEST
    tau, file = test.SIBLING_ADJUSTMENT.TAU, test.SIBLING_ADJUSTMENT.FILE
    if tau == 0:
        return None
    variant = decode_variant(test.DECODE, loss_names, kind=kind)
    if variant not in _SOFTMAX:
        raise ConfigError(
            f"{_ADJUSTMENT_KEY}.TAU is {tau}, but {DECODE_KEY} is {variant!r}, which has no "
            f"softmax over the leaves or per level; set {DECODE_KEY} to one of {_SOFTMAX}, for a "
            "model trained with marginal_ce or level_ce"
        )
    try:
        counts = read_node_counts(local_path(file), hierarchy)
        return SiblingAdjustment(hierarchy, counts, tau, by_level=variant == "level_softmax")
    except ValueError as error:
        raise ConfigError(
            f"{_ADJUSTMENT_KEY}.FILE is {file!r}: {error}; set it to the pixel counts of the "
            "training set, written by tools/count_nodes.py"
        ) from error


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(
        f"{old} was renamed to {new}; please change it, because the old name will be removed in "
        "0.3",
        FutureWarning,
        stacklevel=3,
    )
