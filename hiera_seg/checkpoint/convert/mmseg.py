"""Map the tensor names of HSSN's public PyTorch release to those of this package.

The names are those of mmsegmentation. The network is a ResNet-V1d with separable ASPP, a projection
head and an FCN auxiliary head. Its channels are leaves, middle level, top level, which is the order
of node ids here.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from hiera_seg.checkpoint.convert.rules import rename

_BODY = "backbone.body"
_DECODER = "sem_seg_head.pixel_decoder"
_EMBEDDING = "sem_seg_head.embedding_head"
_AUXILIARY = "sem_seg_head.auxiliary_head"
_KEYS = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

# (pattern of a whole name, our name)
_RULES = [
    # In timm's resnet101d, the stem's first convolutions and norms are conv1, its last norm is bn1
    (rf"backbone\.stem\.([0-6])\.{_KEYS}", rf"{_BODY}.conv1.\1.\2"),
    (rf"backbone\.stem\.7\.{_KEYS}", rf"{_BODY}.bn1.\1"),
    (rf"backbone\.(layer\d\.\d+\.\w+(?:\.\d)?)\.{_KEYS}", rf"{_BODY}.\1.\2"),
    (r"decode_head\.conv_seg\.(weight|bias)", r"sem_seg_head.predictor.\1"),
    (r"decode_head\.proj_head\.proj\.0\.weight", f"{_EMBEDDING}.hidden.weight"),
    (rf"decode_head\.proj_head\.proj\.1\.{_KEYS}", rf"{_EMBEDDING}.hidden.norm.\1"),
    (r"decode_head\.proj_head\.proj\.3\.(weight|bias)", rf"{_EMBEDDING}.project.\1"),
    (r"auxiliary_head\.convs\.0\.conv\.weight", f"{_AUXILIARY}.conv.weight"),
    (rf"auxiliary_head\.convs\.0\.bn\.{_KEYS}", rf"{_AUXILIARY}.conv.norm.\1"),
    (r"auxiliary_head\.conv_seg\.(weight|bias)", rf"{_AUXILIARY}.predictor.\1"),
]
for _theirs, _ours in {
    r"image_pool\.1": "pool",
    r"aspp_modules\.0": "aspp.0",
    r"aspp_modules\.([1-9])\.(depthwise|pointwise)_conv": r"aspp.\1.\2",
    "bottleneck": "join",
    "c1_bottleneck": "project",
    r"sep_bottleneck\.([01])\.(depthwise|pointwise)_conv": r"fuse.\1.\2",
}.items():
    _RULES += [
        (rf"decode_head\.{_theirs}\.conv\.(?P<key>weight)", rf"{_DECODER}.{_ours}.\g<key>"),
        (rf"decode_head\.{_theirs}\.bn\.(?P<key>{_KEYS})", rf"{_DECODER}.{_ours}.norm.\g<key>"),
    ]

# The bias before the projection head's norm has no effect: the norm subtracts it again
_HIDDEN_BIAS = "decode_head.proj_head.proj.0.bias"
_HIDDEN_MEAN = "decode_head.proj_head.proj.1.running_mean"
# State of the release's losses, which is not part of the network
_NO_NETWORK = re.compile(r"criterion\..*|decode_head\.(step|criterion\..*|loss_decode\..*)")


def convert_mmseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a checkpoint of HSSN's public release.

    Args:
        state: tensors by the release's names, with or without the prefix "module." of
            ``DataParallel``.

    Returns:
        Tensors by the names of this package, for a ``TimmBackbone`` of resnet101d with the pixel
        decoder "sep_aspp". Unknown names are unchanged, and so is ``state``.
    """
    given = {name.removeprefix("module."): value for name, value in state.items()}
    if _HIDDEN_BIAS in given and _HIDDEN_MEAN in given:
        # norm(x + bias) with mean m = norm(x) with mean m - bias
        given[_HIDDEN_MEAN] = given[_HIDDEN_MEAN] - given.pop(_HIDDEN_BIAS)
    return {
        rename(name, _RULES): value
        for name, value in given.items()
        if not _NO_NETWORK.fullmatch(name)
    }
