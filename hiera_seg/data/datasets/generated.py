"""The generated street scenes as hiera_generated_train and hiera_generated_val.

No files are shipped and none are needed below $DETECTRON2_DATASETS: the first use of a split draws
it into the cache folder (see `hiera_seg.data.generated.cache`).
"""

from functools import partial

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.data.generated.cache import SPLITS, list_scenes


def register() -> None:
    """Register hiera_generated_train and hiera_generated_val; draws nothing."""
    for split in SPLITS:
        register_builtin_dataset(
            f"hiera_generated_{split}", partial(list_scenes, split), hierarchy="generated"
        )


register()
