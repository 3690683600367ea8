"""Convert checkpoints of other projects."""

from hiera_seg.checkpoint import read_checkpoint
from hiera_seg.checkpoint.convert.convert import (
    CONVERTERS,
    ConversionReport,
    Converter,
    convert_checkpoint,
    save_checkpoint,
)
from hiera_seg.checkpoint.convert.mask2former import convert_mask2former
from hiera_seg.checkpoint.convert.mmseg import convert_mmseg
