"""Renamed config keys are read with a warning."""

import warnings

import pytest

from hiera_seg.cli import load_config
from hiera_seg.config import defaults, map_old_keys
from hiera_seg.errors import ConfigError
from tests.helpers import new_config

OLD, NEW = "MODEL.HIERA_SEG.TEST.FORMER", "MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT.TAU"


@pytest.fixture(autouse=True)
def renamed(monkeypatch):
    monkeypatch.setitem(defaults.OLD_KEYS, OLD, NEW)


cfg = pytest.fixture(new_config)


def values(cfg):
    test = cfg.MODEL.HIERA_SEG.TEST
    return test.FORMER, test.SIBLING_ADJUSTMENT.TAU


def test_old_keys_are_none_and_silent_by_default(cfg):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert map_old_keys(cfg) is cfg
    assert values(cfg) == (None, 0.0)


def test_the_value_of_an_old_key_moves_to_the_new_one(cfg):
    cfg.merge_from_list([OLD, 0.25])
    cfg.freeze()
    with pytest.warns(FutureWarning, match=f"{OLD} .*{NEW}"):
        mapped = map_old_keys(cfg)
    assert values(mapped) == (None, 0.25) and mapped.is_frozen()
    assert values(cfg) == (0.25, 0.0)  # the given config is not changed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert map_old_keys(mapped) is mapped


@pytest.mark.parametrize(("options", "expected"), [([OLD, 0.25, NEW, 0.5], 0.5), ([OLD, 0.0], 0.0)])
def test_the_new_key_has_priority_and_a_falsy_old_value_moves_too(cfg, options, expected):
    cfg.merge_from_list(options)
    with pytest.warns(FutureWarning, match=OLD):
        assert values(map_old_keys(cfg)) == (None, expected)


def test_an_old_key_of_the_wrong_type_names_the_file(tmp_path):
    (tmp_path / "old.yaml").write_text("MODEL: {HIERA_SEG: {TEST: {FORMER: low}}}\nVERSION: 2\n")
    with pytest.warns(FutureWarning, match=OLD), pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "old.yaml"), [])
    assert "old.yaml" in str(caught.value) and NEW in str(caught.value)


def test_options_have_priority_over_the_file_under_either_name(tmp_path):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("MODEL: {HIERA_SEG: {TEST: {FORMER: 0.25}}}\nVERSION: 2\n")
    new.write_text("MODEL: {HIERA_SEG: {TEST: {SIBLING_ADJUSTMENT: {TAU: 0.25}}}}\nVERSION: 2\n")
    for file, options, expected in (
        (old, [], 0.25), (old, [NEW, "0.0"], 0.0), (new, [OLD, "0.75"], 0.75)
    ):  # fmt: skip
        with pytest.warns(FutureWarning, match=OLD):
            assert values(load_config(str(file), options)) == (None, expected)
