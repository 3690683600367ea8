"""Map the tensor names of the official Mask2Former release to those of this package."""

import re
from collections.abc import Mapping

from torch import Tensor

from hiera_seg.checkpoint.convert.rules import rename

_DECODER = "sem_seg_head.transformer_decoder"
# Names below sem_seg_head.pixel_decoder; # is a number, * is weight or bias
_OF_PIXEL_DECODER = {
    "input_proj.#.#.*": r"input_projections.\1.\2.\3",
    "transformer.level_embed": "level_embedding",
    "transformer.encoder.layers.#.self_attn.sampling_offsets.*": r"layers.\1.attention.offsets.\2",
    "transformer.encoder.layers.#.self_attn.attention_weights.*": r"layers.\1.attention.weights.\2",
    "transformer.encoder.layers.#.self_attn.value_proj.*": r"layers.\1.attention.value.\2",
    "transformer.encoder.layers.#.self_attn.output_proj.*": r"layers.\1.attention.out.\2",
    "transformer.encoder.layers.#.norm1.*": r"layers.\1.attention_norm.\2",
    "transformer.encoder.layers.#.linear1.*": r"layers.\1.expand.\2",
    "transformer.encoder.layers.#.linear2.*": r"layers.\1.contract.\2",
    "transformer.encoder.layers.#.norm2.*": r"layers.\1.feedforward_norm.\2",
    "adapter_1.*": r"lateral.\1",
    "adapter_1.norm.*": r"lateral.norm.\1",
    "layer_1.*": r"smooth.\1",
    "layer_1.norm.*": r"smooth.norm.\1",
    "mask_features.*": r"mask_features.\1",
}
# Names below sem_seg_head.predictor
_OF_TRANSFORMER_DECODER = {
    "transformer_self_attention_layers.#.self_attn.out_proj.*": r"layers.\1.self_attention.out.\2",
    "transformer_self_attention_layers.#.norm.*": r"layers.\1.self_attention.norm.\2",
    "transformer_cross_attention_layers.#.multihead_attn.out_proj.*": (
        r"layers.\1.cross_attention.out.\2"
    ),
    "transformer_cross_attention_layers.#.norm.*": r"layers.\1.cross_attention.norm.\2",
    "transformer_ffn_layers.#.linear1.*": r"layers.\1.expand.\2",
    "transformer_ffn_layers.#.linear2.*": r"layers.\1.contract.\2",
    "transformer_ffn_layers.#.norm.*": r"layers.\1.norm.\2",
    "decoder_norm.*": r"norm.\1",
    "query_feat.weight": "query_features.weight",
    "static_query.weight": "query_features.weight",  # in checkpoints of the first version
    "query_embed.weight": "query_positions.weight",
    "level_embed.weight": "level_embedding.weight",
    "input_proj.#.*": r"input_projections.\1.\2",
    "class_embed.*": r"class_predictor.\1",
    "mask_embed.layers.0.*": r"mask_embedding.0.\1",
    "mask_embed.layers.1.*": r"mask_embedding.2.\1",
    "mask_embed.layers.2.*": r"mask_embedding.4.\1",
}
_RULES = [
    (
        f"{theirs}.{name}".replace(".", r"\.").replace("#", r"(\d+)").replace("*", "(weight|bias)"),
        f"{ours}.{new_name}",
    )
    for theirs, ours, names in (
        ("sem_seg_head.pixel_decoder", "sem_seg_head.pixel_decoder", _OF_PIXEL_DECODER),
        ("sem_seg_head.predictor", _DECODER, _OF_TRANSFORMER_DECODER),
    )
    for name, new_name in names.items()
]
# The release's own Swin, as TimmBackbone names timm's. Patch merging is the first layer of a stage
# in timm, and the last one of the stage before in the release.
_RULES += [
    (r"backbone\.patch_embed\.(.+)", r"backbone.body.patch_embed.\1"),
    (r"backbone\.layers\.(\d+)\.blocks\.(.+)", r"backbone.body.layers_\1.blocks.\2"),
]
for _stage in range(4):
    _RULES += [
        (
            rf"backbone\.layers\.{_stage}\.downsample\.(.+)",
            rf"backbone.body.layers_{_stage + 1}.downsample.\1",
        ),
        (rf"backbone\.norm{_stage}\.(weight|bias)", rf"backbone.norms.res{_stage + 2}.\1"),
    ]
# One row per class, then one for "no object"
CLASS_LAYERS = (f"{_DECODER}.class_predictor.weight", f"{_DECODER}.class_predictor.bias")
# PyTorch's attention has the weights of query, key and value in one tensor
_IN_PROJECTION = re.compile(
    r"sem_seg_head\.predictor\.transformer_(self|cross)_attention_layers\.(\d+)\."
    r"(?:self_attn|multihead_attn)\.in_proj_(weight|bias)"
)


def convert_mask2former(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an official Mask2Former checkpoint.

    Args:
        state: tensors by the release's names, such as
            "sem_seg_head.predictor.class_embed.weight".

    Returns:
        Tensors by the names of this package. Both use Detectron2's names for a ResNet; those of
        the release's Swin become the names of
        :class:`~hiera_seg.modeling.backbones.TimmBackbone`. Unknown names are unchanged.
    """
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        found = _IN_PROJECTION.fullmatch(name)
        if found:
            kind, layer, suffix = found.groups()
            prefix = f"{_DECODER}.layers.{layer}.{kind}_attention"
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                converted[f"{prefix}.{part}.{suffix}"] = rows
        else:
            converted[rename(name, _RULES)] = value
    return converted
