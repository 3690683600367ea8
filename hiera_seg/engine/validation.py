"""Compute the training losses on a test set without touching the training state."""

import contextlib
import logging
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from hiera_seg.data import HieraDatasetMapper
from hiera_seg.data.loader import build_hiera_test_loader
from hiera_seg.data.records import iterate_records
from hiera_seg.engine.randomness import get_random_state, seed_everything, set_random_state
from hiera_seg.errors import ConfigError
from hiera_seg.modeling import HieraSegmentor, evaluation_mode

logger = logging.getLogger(__name__)


def validation_losses(
    cfg: CfgNode, model: nn.Module, dataset_name: str, *, seed: int = 0
) -> dict[str, float]:
    """Compute the training losses of a model, averaged over the images of a dataset.

    Images are resized as in a test, and norms and dropout behave as in a test. Losses with a
    schedule have their final weight, and sampling losses draw the same pixels every time, which
    makes values of different iterations comparable. The model, the random state and the metrics of
    the run do not change. All processes must call it; each computes a share of the images.

    Args:
        cfg: the config of the run.
        model: a :class:`~hiera_seg.modeling.HieraSegmentor`, without a wrapper.
        dataset_name: a registered dataset with labels.
        seed: with the index of the image, seeds the sampling of losses.

    Returns:
        On the main process {"validation_loss": sum, "validation_loss_<name>": each term}, the same
        for any number of processes; on others, or without images, an empty dict.
    """
    mapper = HieraDatasetMapper(cfg, False, with_sem_seg=True)
    loader = build_hiera_test_loader(
        iterate_records([dataset_name]), mapper, num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    logger.info(f"Losses on {dataset_name}, {len(loader.dataset)} images")
    found = []
    with _untouched_random_state(), evaluation_mode(model):
        # In a separate storage, because schedules and seeds of losses read the iteration from it
        with EventStorage(start_iter=None):
            for index, batch in zip(loader.sampler, loader, strict=True):
                seed_everything(seed, index)
                losses = model.losses(batch, model.label_normalizer(batch))
                found.append((index, {name: float(x) for name, x in losses.items()}))
    every = comm.gather(found)
    if not comm.is_main_process():
        return {}
    rows = [losses for _, losses in sorted(sum(every, []), key=lambda pair: pair[0])]
    if not rows:
        return {}
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    result = {"validation_loss": sum(means.values())}
    return result | {f"validation_{name}": value for name, value in means.items()}


def check_can_validate(model: nn.Module) -> None:
    """Raise ConfigError for a model that cannot compute losses in eval mode."""
    if not (isinstance(model, HieraSegmentor) and hasattr(model.sem_seg_head, "label_normalizer")):
        raise ConfigError(
            "TEST.VALIDATION_LOSS needs MODEL.META_ARCHITECTURE HieraSegmentor with a head of this "
            f"package; the model is a {type(model).__name__}"
        )


@contextlib.contextmanager
def _untouched_random_state() -> Iterator[None]:
    state = get_random_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            set_random_state(state)
