"""Define the options of decoding."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

from detectron2.config import CfgNode

from hiera_seg.config import map_old_keys
from hiera_seg.errors import ConfigError

KEY = "MODEL.HIERA_SEG.TEST"
OUTPUTS = ("both", "scores", "labels")

# Keyword arguments of HieraSegmentor in 0.1, and the fields that replace them.
_DEPRECATED = {
    "decode_as": "variant",
    "direct": "direct",
    "output": "output",
    "safe_depth": "min_confidence",
    "path_scores": "confidence",
    "walk": "greedy_path",
}


@dataclass(frozen=True)
class DecodeOptions:
    """Options for the conversion of node outputs to scores and label maps.

    Attributes:
        variant: how node outputs become scores: one of ``DECODE_VARIANTS``, or "auto", which
            :class:`~hiera_seg.modeling.HieraSegmentor` resolves: for a model the one that its
            losses train, for a call that of the model.
        direct: also return the best node of each level by its own score.
        output: "both"; "scores", without label maps; or "labels", without "sem_seg", which never
            holds leaf scores at full size.
        min_confidence: the safe depth. Labels follow the greedy path (from the best top-level node
            to its best child, and so on) as long as the child's score is at least this; where the
            path stops early, the label is an inner node at that level and every finer one. None:
            labels follow the path of the best leaf. "sem_seg" is the same either way.
        confidence: also return "hiera_confidence", the score of the predicted node per level.
        greedy_path: also return "hiera_greedy_path" and "hiera_greedy_path_limits", which determine
            the labels at every `min_confidence`.

    Raises:
        ConfigError: an unknown `output`, a negative `min_confidence`, or `confidence` or
            `min_confidence` without label maps.
    """

    variant: str = "auto"
    direct: bool = True
    output: str = "both"
    min_confidence: float | None = None
    confidence: bool = False
    greedy_path: bool = False

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise ConfigError(f"{KEY}.OUTPUT is {self.output!r}; choose one of {OUTPUTS}")
        if self.min_confidence is not None and not self.min_confidence >= 0:
            raise ConfigError(
                f"min_confidence is {self.min_confidence}; it must be a score of 0 or more, or None"
            )
        if self.output == "scores" and (self.confidence or self.min_confidence is not None):
            raise ConfigError(
                f"{KEY}.{'CONFIDENCE' if self.confidence else 'MIN_CONFIDENCE'} needs label maps, "
                f"but {KEY}.OUTPUT is 'scores'; set it to 'both' or 'labels'"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "DecodeOptions":
        """Read MODEL.HIERA_SEG.TEST of a whole config."""
        keys = map_old_keys(cfg).MODEL.HIERA_SEG.TEST
        return cls(
            variant=keys.DECODE,
            direct=keys.DIRECT,
            output=keys.OUTPUT,
            min_confidence=keys.MIN_CONFIDENCE if keys.MIN_CONFIDENCE >= 0 else None,
            confidence=keys.CONFIDENCE,
            greedy_path=keys.GREEDY_PATH,
        )

    def labels_only(self) -> "DecodeOptions":
        """Return options that give the same labels and nothing else."""
        return replace(self, direct=False, output="labels", confidence=False, greedy_path=False)

    @classmethod
    def from_deprecated(cls, arguments: dict[str, Any]) -> "DecodeOptions":
        """Read the keyword arguments that HieraSegmentor took in 0.1, with a warning.

        Raises:
            TypeError: an argument that did not exist in 0.1.
        """
        unknown = arguments.keys() - _DEPRECATED.keys()
        if unknown:
            raise TypeError(f"HieraSegmentor: unexpected arguments {sorted(unknown)}")
        fields = {_DEPRECATED[name]: value for name, value in arguments.items()}
        text = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        warnings.warn(
            f"HieraSegmentor: {', '.join(arguments)} will be removed in 0.3; pass "
            f"decode_options=DecodeOptions({text})",
            FutureWarning,
            stacklevel=4,
        )
        return cls(**fields)
