"""Test that the example of docs/mask2former.md runs, and that the names on the page exist."""

import re

import torch

from hiera_seg.losses import QUERY_OPTIONS
from hiera_seg.modeling import HIERA_PIXEL_DECODERS
from tests.helpers import REPOSITORY, read_page, run_code

PAGE = read_page("docs/mask2former.md")


def test_the_example_runs():
    names = run_code("docs/mask2former.md", names={"torch": torch})
    assert names["result"].shape == (2, 10, 4 * 32)


def test_every_option_decoder_and_config_is_there():
    for name in QUERY_OPTIONS:
        assert f"**`{name}`**" in PAGE
    for name in ("ms_deform_attn", "top_down_fpn", "fpn", "deeplab_v3_plus"):
        assert f"`{name}`" in PAGE and name in HIERA_PIXEL_DECODERS
    configs = re.findall(r"^\| `(configs/.*?)`", PAGE, flags=re.M)
    shipped = (REPOSITORY / "configs").glob("*/maskformer*.yaml")
    assert sorted(configs) == sorted(path.relative_to(REPOSITORY).as_posix() for path in shipped)
