"""Define the base class of losses, and exclude loss functions from torch.compile."""

import inspect
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses.checks import as_node_weights

_CALL_OPTIONS = ("valid_count", "generator")  # arguments of the call, not of the module
Function = TypeVar("Function", bound=Callable)


def runs_eagerly(function: Function) -> Function:
    """Decorator: run a function eagerly inside of compiled code.

    The losses compute value and gradient in one pass over tiles that fit the cache, and read tables
    of the tree that are made with numpy. Tracing them gives a large graph that is no faster when
    compiled. The code before and after the loss stays compiled.
    """
    if not hasattr(torch, "compiler"):  # torch 2.0
        return function
    eager = torch.compiler.disable(function)

    @wraps(function)
    def call(*args, **kwargs):  # torch.compile(eager) itself would compile `function`
        return eager(*args, **kwargs)

    return call


class LossTerm(nn.Module):
    """Base class of the losses in `HIERA_LOSSES`.

    A loss is built as ``Loss(hierarchy, *, ignore_label, **options)`` and called as
    ``loss(values, labels, *, valid_count=None)``. Its class attributes declare how it is used.

    With a `function`, constructor and call are generated from it::

        class FocalTreeMinLoss(LossTerm, function=tree_min_loss, gamma=2.0):
            decoding = "path_sum"

    Its options are the keyword-only parameters of the function with their defaults, except those
    in `without` and those with another default here; ``inspect.signature`` shows them. A default
    whose name is not a parameter of the function becomes an option and attribute of the module.

    Attributes:
        needs: the kind of `values`, "logits" (B, N, H, W) or "embeddings" (B, D, h, w).
        normalizer: the kind of `valid_count`, which the loss divides by: "pixels", "levels" (one
            number per level) or None, if it needs neither.
        reads_pixels: whether it takes `PixelEmbeddings` in place of a tensor of embeddings.
        samples: whether it draws random values, and is called with ``generator=`` too.
        decoding: one of `DECODE_VARIANTS`, the meaning of the logits that the loss trains; used by
            MODEL.HIERA_SEG.TEST.DECODE "auto". None for a loss that does not determine it, such as
            one on embeddings. There is no default: each loss has to declare it.
    """

    needs: ClassVar[str] = "logits"
    normalizer: ClassVar[str | None] = "pixels"
    reads_pixels: ClassVar[bool] = False
    samples: ClassVar[bool] = False
    decoding: ClassVar[str | None]

    def __init_subclass__(
        cls,
        *,
        function: Callable[..., Tensor] | None = None,
        without: tuple[str, ...] = (),
        **defaults: Any,
    ):
        super().__init_subclass__(**({} if function else defaults))  # takes none: an error
        if function is None:
            return
        options = {
            name: parameter
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind == Parameter.KEYWORD_ONLY and name not in (*_CALL_OPTIONS, *without)
        }
        own = [name for name in defaults if name not in options]
        for name, default in defaults.items():
            options[name] = options.get(
                name, Parameter(name, Parameter.KEYWORD_ONLY, annotation=type(default))
            ).replace(default=default)
        positional = [
            Parameter("self", Parameter.POSITIONAL_OR_KEYWORD),
            Parameter("hierarchy", Parameter.POSITIONAL_OR_KEYWORD, annotation=Hierarchy),
        ]
        signature = Signature([*positional, *options.values()])

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            nn.Module.__init__(self)
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.hierarchy = bound.arguments["hierarchy"]
            self.options = {name: bound.arguments[name] for name in options}
            for name in own:
                setattr(self, name, self.options.pop(name))
            weights = self.options.pop("node_weights", None)
            if weights is not None:
                weights = as_node_weights(weights, self.hierarchy, torch.zeros(()))
            # A buffer moves with the module; the weights come from the config, not from its state.
            self.register_buffer("node_weights", weights, persistent=False)
            self.check_options()

        __init__.__signature__ = signature
        cls.function = staticmethod(function)
        cls.__init__ = __init__

    def check_options(self) -> None:
        """Validate the options by calling the loss on an empty batch."""
        channels = self.hierarchy.num_nodes if self.needs == "logits" else 1
        device = "cpu" if self.node_weights is None else self.node_weights.device
        labels = torch.zeros(0, 1, 1, dtype=torch.long, device=device)
        with torch.no_grad():
            self(torch.zeros(0, channels, 1, 1, device=device), labels)

    def forward(
        self,
        values: Tensor,
        labels: Tensor,
        *,
        valid_count: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            values: logits or embeddings, as declared by `needs`.
            labels: (B, H, W) int64 node ids or the ignore label.
            valid_count: the normalizer; None to compute it from this batch.
            generator: random generator of a loss that `samples`; None for PyTorch's default.

        Returns:
            Scalar.
        """
        options = dict(self.options)
        if self.node_weights is not None:
            options["node_weights"] = self.node_weights
        if self.normalizer is not None:
            options["valid_count"] = valid_count
        if self.samples:
            options["generator"] = generator
        return self.function(values, labels, self.hierarchy, **options)

    def weight_at(self, iteration: int | None) -> float:
        """Return the factor of a schedule at an iteration; None for its final value."""
        return 1.0

    def extra_repr(self) -> str:
        options = getattr(self, "options", {})
        return ", ".join(f"{name}={value!r}" for name, value in options.items())
