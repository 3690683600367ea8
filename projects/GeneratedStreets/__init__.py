"""Register hiera_generated_train and hiera_generated_val: street scenes drawn from a seed.

Importing draws nothing. The first use of a split draws it into the cache folder, see `files`.
"""

from functools import partial

from hiera_seg.data.catalog import register_builtin_dataset

from .files import SPLITS, TREE, list_scenes

__all__ = ["TREE", "list_scenes"]

for _split in SPLITS:
    _source = partial(list_scenes, _split)
    register_builtin_dataset(f"hiera_generated_{_split}", _source, hierarchy=TREE)
