"""Define the config keys of the package, check their values, and resolve the class tree."""

from hiera_seg.config.checks import RULES, check_config
from hiera_seg.config.resolve import (
    STOCK_IGNORE_VALUE,
    WIDE_IGNORE_VALUE,
    map_old_keys,
    resolve_hierarchy,
    resolve_ignore_label,
)
from hiera_seg.errors import ConfigError
