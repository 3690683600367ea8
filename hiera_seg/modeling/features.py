"""Select the backbone features that a head or pixel decoder reads."""

from collections.abc import Sequence

from detectron2.layers import ShapeSpec

from hiera_seg.errors import ConfigError


def pick_features(
    input_shape: dict[str, ShapeSpec], names: Sequence[str], key: str
) -> dict[str, ShapeSpec]:
    """Return the shapes of the named features, finest first.

    Args:
        input_shape: shapes of the backbone's features by name.
        names: the features to select.
        key: the config key that holds ``names``, for the error.

    Raises:
        ConfigError: no name, or a feature that the backbone does not have.
    """
    missing = [name for name in names if name not in input_shape]
    if missing or not names:
        wanted = ", ".join(missing) if names else "no feature at all"
        given = ", ".join(f"{k} (stride {v.stride})" for k, v in input_shape.items())
        raise ConfigError(
            f"{key} names {wanted}; the backbone returns {given}. Choose among these, or let the "
            "backbone return more (MODEL.RESNETS.OUT_FEATURES, MODEL.FPN.IN_FEATURES)"
        )
    chosen = {name: input_shape[name] for name in names}
    return dict(sorted(chosen.items(), key=lambda item: item[1].stride))
