"""Build the weighted sum of losses that a config names, for heads to call."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.pixel_embeddings import PixelEmbeddings
from hiera_seg.losses.checks import check_number
from hiera_seg.losses.registry import HIERA_LOSSES
from hiera_seg.losses.term import LossTerm

_LOSSES_KEY = "MODEL.HIERA_SEG.LOSSES"


class HierarchicalLoss(nn.Module):
    """Compute several weighted losses of `HIERA_LOSSES` from the same labels.

    Attributes:
        names: tuple of the names of the losses, in order.
        trained: the names of those whose weight is above 0, which determine what logits mean.
        needs: set of the inputs that the losses need: "logits", "embeddings".
    """

    training_only = True  # evaluations need no parameters of losses

    def __init__(
        self,
        hierarchy: Hierarchy,
        terms: Iterable[tuple[str, float, Mapping[str, Any]]],
        ignore_label: int = 255,
    ):
        """
        Args:
            hierarchy: the tree.
            terms: (name, weight, options) of each loss: a name of `HIERA_LOSSES`, a weight of 0 or
                more, keyword arguments of the module.
            ignore_label: the value of void in labels.

        Raises:
            ValueError: no loss, an unknown or repeated name, an invalid weight or an unknown
                option; the message names the config key.
        """
        super().__init__()
        self.hierarchy = hierarchy
        self.weights: list[float] = []
        names: list[str] = []
        modules: list[nn.Module] = []
        for name, weight, options in terms:
            if name in names:
                raise ValueError(f"{_LOSSES_KEY} names {name!r} twice; list it once")
            names.append(name)
            check_number(f"{_LOSSES_KEY}: the weight of {name!r}", weight, minimum=0)
            self.weights.append(float(weight))
            modules.append(_build(name, hierarchy, ignore_label, options))
        if not names:
            raise ValueError(f"{_LOSSES_KEY} is empty; known losses: {HIERA_LOSSES.names()}")
        self.names = tuple(names)
        self.trained = tuple(name for name, w in zip(names, self.weights, strict=True) if w > 0)
        self.losses = nn.ModuleList(modules)
        self.needs = {loss.needs for loss in modules}

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        embeddings: Tensor | PixelEmbeddings | None = None,
        *,
        valid_count: Tensor | None = None,
        iteration: int | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute every loss.

        Args:
            logits: (B, N, H, W) float.
            labels: (B, H, W) int64 node ids or the ignore label.
            embeddings: (B, D, h, w) float, or `PixelEmbeddings`, if a loss needs them.
            valid_count: (1 + num_levels,), as returned by `valid_pixels`; None to count the pixels
                of this batch.
            iteration: the current iteration, for weights with a schedule; None for the final
                weights.
            generator: random generator of losses that sample pixels; None for PyTorch's default.

        Returns:
            {"loss_<name>": scalar}, with weights and schedules applied.
        """
        values = {"logits": logits, "embeddings": embeddings}
        result = {}
        for name, weight, loss in zip(self.names, self.weights, self.losses, strict=True):
            if values[loss.needs] is None:
                raise ValueError(f"loss {name!r} needs {loss.needs}, but none were given")
            value = values[loss.needs]
            if isinstance(value, PixelEmbeddings) and not getattr(loss, "reads_pixels", False):
                value = value.dense()
            arguments: dict[str, Any] = {"valid_count": _normalizer_of(loss, valid_count)}
            if getattr(loss, "samples", False):
                arguments["generator"] = generator
            if hasattr(loss, "weight_at"):
                weight = weight * loss.weight_at(iteration)
            result[f"loss_{name}"] = weight * loss(value, labels, **arguments)
        return result

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: {w:g}" for name, w in zip(self.names, self.weights, strict=True))


def _normalizer_of(loss: nn.Module, valid_count: Tensor | None) -> Tensor | None:
    """Return the part of `valid_pixels` that a loss divides by."""
    normalizer = getattr(loss, "normalizer", LossTerm.normalizer)
    if valid_count is None or normalizer is None:
        return None
    return valid_count[0] if normalizer == "pixels" else valid_count[1:]


def _build(
    name: str, hierarchy: Hierarchy, ignore_label: int, options: Mapping[str, Any]
) -> nn.Module:
    if name not in HIERA_LOSSES:
        raise ValueError(
            f"{_LOSSES_KEY} names an unknown loss {name!r}; known: {HIERA_LOSSES.names()}"
        )
    entry = HIERA_LOSSES.get(name)
    key = f"MODEL.HIERA_SEG.{name.upper()}"
    parameters = inspect.signature(entry).parameters.values()
    allowed = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY and p.name != "ignore_label"]
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    unknown = [option for option in options if option not in allowed and not takes_any]
    if unknown:
        raise ValueError(
            f"{key}.{unknown[0].upper()}: loss {name!r} has no such option; its options: "
            f"{', '.join(option.upper() for option in allowed) or 'none'}"
        )
    try:
        return entry(hierarchy, ignore_label=ignore_label, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: {error}") from error
