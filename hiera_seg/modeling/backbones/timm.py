"""Wrap timm models with features of strides 4, 8, 16 and 32 as Detectron2 backbones."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.utils import comm
from torch import Tensor, nn

from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy.messages import suggestion
from hiera_seg.modeling.backbones.timm_weights import download_error, load_timm_file

KEY = "MODEL.HIERA_SEG.TIMM"
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}

_ANY_SIZE = {"strict_img_size": False, "always_partition": True}
# Options by the timm module that defines a model. They allow images of any size, and select HRNet's
# branches instead of the widened features of its classifier.
MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "hrnet": {"feature_location": ""},
    "swin_transformer": _ANY_SIZE,
    "swin_transformer_v2": _ANY_SIZE,
    "swin_transformer_v2_cr": _ANY_SIZE,
}


class TimmBackbone(Backbone):
    """The last four stages of a timm model as features res2, res3, res4 and res5.

    Images must be padded to multiples of ``size_divisibility``, as in
    :class:`~hiera_seg.modeling.HieraSegmentor`. All parameters are trained:
    ``MODEL.BACKBONE.FREEZE_AT`` applies to Detectron2's ResNets only.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        in_channels: int = 3,
        pretrained: bool = False,
        checkpoint: str = "",
        output_stride: int = 32,
        out_features: Sequence[str] = tuple(STRIDES),
        drop_path_rate: float = 0.0,
        synchronize_norms: bool = False,
        out_norm: str = "",
    ):
        """
        Args:
            name: name in timm, such as "hrnet_w48"; "model.tag" selects pretrained weights.
            in_channels: number of channels of images.
            pretrained: start from timm's weights, which are downloaded unless cached.
            checkpoint: file of weights to start from instead, with timm's names.
            output_stride: 8, 16 or 32; below 32 the last stages are dilated, if the model supports
                it.
            out_features: which of res2, res3, res4, res5 to return.
            drop_path_rate: rate of stochastic depth.
            synchronize_norms: synchronize batch norm over all processes (GPUs only).
            out_norm: "LN" normalises each feature over its channels, as in published segmentation
                networks on Swin and ConvNeXt; "" for none.

        Raises:
            ConfigError: timm is not installed or has no such model, or the model does not support
                an option or the strides.
            CheckpointError: the weights cannot be found, read or downloaded, or do not fit.
        """
        super().__init__()
        timm = _import_timm()
        _check_names(timm, name, out_features)
        own = MODEL_OPTIONS.get(timm.model_entrypoint(name).__module__.rpartition(".")[2], {})
        options = {"in_chans": in_channels, **own}
        if output_stride != 32:
            options["output_stride"] = output_stride
        if drop_path_rate > 0:
            options["drop_path_rate"] = drop_path_rate
        self._out_features = sorted(out_features, key=STRIDES.get)
        self.body = _build(timm, name, options)
        self._channels_last = str(getattr(self.body, "output_fmt", "")).endswith("NHWC")
        self._check_features(name, in_channels, output_stride)
        if len(out_features) < len(STRIDES):  # again, without unused stages
            first = len(self.body.feature_info.reduction()) - len(STRIDES)
            stages = [list(STRIDES).index(feature) for feature in self._out_features]
            options["out_indices"] = [first + stage for stage in stages]
            self.body = _build(timm, name, options)
        if checkpoint:
            load_timm_file(timm, self.body, name, checkpoint, in_channels)
        elif pretrained:
            try:
                self.body = timm.create_model(name, features_only=True, pretrained=True, **options)
            except Exception as error:  # the download, the cache or a damaged file may raise any
                raise download_error(self.body.pretrained_cfg, name, error) from error
        _drop_unstrided_pools(self.body)
        if synchronize_norms:
            self.body = timm.layers.convert_sync_batchnorm(self.body)

        info = self.body.feature_info
        self._out_feature_strides = self._last(info.reduction())
        self._out_feature_channels = self._last(info.channels())
        self._size_divisibility = output_stride
        self.norms = nn.ModuleDict()
        if out_norm:
            self.norms.update({k: nn.LayerNorm(c) for k, c in self._out_feature_channels.items()})

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        keys = cfg.MODEL.HIERA_SEG.TIMM
        several_gpus = comm.get_world_size() > 1 and not cfg.MODEL.DEVICE.startswith("cpu")
        return {
            "name": keys.NAME,
            "in_channels": input_shape.channels,
            # MODEL.WEIGHTS contains the backbone
            "pretrained": keys.PRETRAINED and not cfg.MODEL.WEIGHTS,
            "checkpoint": "" if cfg.MODEL.WEIGHTS else keys.CHECKPOINT,
            "output_stride": keys.OUTPUT_STRIDE,
            "out_features": keys.OUT_FEATURES,
            "drop_path_rate": keys.DROP_PATH_RATE,
            "synchronize_norms": keys.NORM == "SyncBN" and several_gpus,
            "out_norm": keys.OUT_NORM,
        }

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the features of images.

        Args:
            x: (B, C, H, W), H and W multiples of ``size_divisibility``.

        Returns:
            (B, channels, H / stride, W / stride) for each of the out features by name, in the
            memory format of the images (channels_last or contiguous).
        """
        channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        features = {}
        for name, feature in self._last(self.body(x)).items():
            if name in self.norms:
                if not self._channels_last:
                    feature = feature.permute(0, 2, 3, 1)
                feature = self.norms[name](feature).permute(0, 3, 1, 2)
            elif self._channels_last:
                feature = feature.permute(0, 3, 1, 2)
            features[name] = feature.contiguous(memory_format=layout)
        return features

    @torch.no_grad()
    def _check_features(self, name: str, in_channels: int, output_stride: int) -> None:
        """Check that the network accepts images of any size, and the sizes of its features."""
        size = 3 * max(STRIDES.values())  # the smallest that Inception accepts
        sides = [size // min(stride, output_stride) for stride in STRIDES.values()]
        height = 1 if self._channels_last else 2
        training = self.body.training
        try:
            features = self.body.eval()(torch.zeros(1, in_channels, size, size))[-len(sides) :]
            found = [tuple(x.shape[height : height + 2]) for x in features]
        except (RuntimeError, AssertionError, ValueError) as error:
            found = error
        self.body.train(training)
        expected = [(side, side) for side in sides]
        if found != expected:
            raise ConfigError(
                f"{KEY}.NAME is {name!r}, whose features of an image of {size}x{size} pixels at "
                f"output stride {output_stride} have the sizes {found}; expected {expected}: "
                "choose a network for images of any size with padded convolutions, such as HRNet, "
                "ResNet, ConvNeXt or Swin"
            )

    def _last(self, stages: Sequence[Any]) -> dict[str, Any]:
        """Return a dict by feature name from timm's list of stages, without those before res2."""
        return dict(zip(self._out_features, stages[-len(self._out_features) :], strict=True))


@BACKBONE_REGISTRY.register()
def build_hiera_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build a :class:`TimmBackbone` from the keys of MODEL.HIERA_SEG.TIMM."""
    return TimmBackbone(cfg, input_shape)


def _import_timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            f"MODEL.BACKBONE.NAME build_hiera_timm_backbone needs timm, which cannot be imported "
            f"({error}): pip install timm"
        ) from error


def _check_names(timm: ModuleType, name: str, out_features: Sequence[str]) -> None:
    if not timm.is_model(name):
        raise ConfigError(
            f"{KEY}.NAME is {name!r}, which timm {timm.__version__} does not have"
            f"{suggestion(name, timm.list_models())} (timm.list_models() lists all)"
        )
    if not out_features or not set(out_features) <= STRIDES.keys():
        raise ConfigError(
            f"{KEY}.OUT_FEATURES is {list(out_features)}; choose among {', '.join(STRIDES)}"
        )


def _build(timm: ModuleType, name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, pretrained=False, **options)
    except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(
            f"{KEY}: timm cannot build {name} with {options} ({error}); models without dilation "
            "need OUTPUT_STRIDE 32, models without stochastic depth DROP_PATH_RATE 0"
        ) from error


def _drop_unstrided_pools(net: nn.Module) -> None:
    """Remove the 2x2 average pools of stride 1 in the shortcuts of dilated ResNet-Ds.

    The pool averages the pixels that a stride of 2 would skip. Without the stride it only blurs and
    shifts; ResNet-V1d of segmentation networks has no such pool.
    """
    for module in net.modules():
        shortcut = getattr(module, "downsample", None)
        if isinstance(shortcut, nn.Sequential) and isinstance(shortcut[0], nn.AvgPool2d):
            if shortcut[0].stride in (1, (1, 1)):
                shortcut[0] = nn.Identity()
