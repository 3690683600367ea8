"""Load samples; in training they depend only on the seed and the position in the stream."""

import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import DataLoader, Dataset, Sampler

from hiera_seg.data.catalog import require_registered
from hiera_seg.data.mapper import HieraDatasetMapper
from hiera_seg.data.records import SerializedRecords, iterate_records
from hiera_seg.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

# Purposes of random streams, which must differ for the same seed and number.
_ORDER, _SAMPLE, _REPLACEMENT = 0, 1, 2

SKIPPED = "skipped"  # key of a sample: errors of the samples that it replaces, one line each
_MAX_SKIPPED = 20  # in a row; more indicate a systematic problem


class PositionSampler(Sampler):
    """Sample an endless shuffled stream of (position, index) that can start at any position.

    The stream runs through the dataset in epochs, each in its own order. Process ``rank`` of
    ``world_size`` takes the positions ``rank, rank + world_size, ...``. A global batch therefore
    holds the same samples for any number of processes.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        start_position: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        shuffle: bool = True,
    ):
        """
        Args:
            size: number of samples in the dataset.
            seed: the same on all processes.
            start_position: the first position of the stream to use, over all processes.
            rank, world_size: rank of the process and number of processes; default: of this job.
            shuffle: False runs through the dataset in its own order.

        Raises:
            ValueError: the dataset is empty, or the position is negative.
        """
        if size < 1 or start_position < 0:
            raise ValueError(
                f"size is {size} and start_position {start_position}; they must be 1 or more, and "
                "0 or more"
            )
        self.size = size
        self.seed = seed
        self.start_position = start_position
        self.rank = comm.get_rank() if rank is None else rank
        self.world_size = comm.get_world_size() if world_size is None else world_size
        self.shuffle = shuffle

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position = self.start_position + self.rank
        epoch, order = -1, np.arange(self.size)
        while True:
            if self.shuffle and position // self.size != epoch:
                epoch = position // self.size
                order = _generator(self.seed, _ORDER, epoch).permutation(self.size)
            yield position, int(order[position % self.size])
            position += self.world_size


def _loader_from_config(
    cfg: CfgNode,
    mapper: Callable[[dict], dict] | None = None,
    *,
    start_iter: int = 0,
    start_position: int | None = None,
) -> dict[str, Any]:
    names = tuple(cfg.DATASETS.TRAIN)
    require_registered(names, "DATASETS.TRAIN", some=True)
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise ConfigError(
            f"DATALOADER.SAMPLER_TRAIN is {cfg.DATALOADER.SAMPLER_TRAIN!r}, but this loader draws "
            'each image once per epoch; use "TrainingSampler", and register a list of images to '
            "train on some of them only or more often"
        )
    if start_position is None:
        start_position = start_iter * cfg.SOLVER.IMS_PER_BATCH
    return {
        "dataset": iterate_records(names),
        "mapper": mapper or HieraDatasetMapper(cfg, True),
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "seed": cfg.SEED,
        "start_position": start_position,
        "on_error": cfg.DATALOADER.ON_ERROR,
    }


@configurable(from_config=_loader_from_config)
def build_hiera_train_loader(
    dataset: Iterable[dict],
    *,
    mapper: Callable[[dict], dict],
    total_batch_size: int,
    num_workers: int = 0,
    seed: int = -1,
    start_position: int = 0,
    on_error: str = "raise",
) -> "ReportingLoader":
    """Build the endless loader of training batches, lists of mapped dicts.

    The content of a batch depends on the seed and its position in the stream, not on the number of
    workers, processes or restarts. Call it with these arguments, or with a config:
    ``build_hiera_train_loader(cfg, mapper=None, *, start_iter=0, start_position=None)``, which
    continues the stream of an uninterrupted run at iteration ``start_iter``.

    Args:
        dataset: dicts in Detectron2's format, which are read once.
        mapper: maps a dict to a sample; it may draw from the global generators of numpy,
            ``random`` and torch (CPU), which are seeded for every sample and restored afterwards.
        total_batch_size: samples per step, over all processes.
        num_workers: number of worker processes per training process; 0 reads in the latter.
        seed: seed of order and augmentation, the same on all processes; a negative one is replaced
            by a random one.
        start_position: samples of the stream, over all processes, that were used before.
        on_error: "raise" raises a DatasetError of the mapper, such as one of a damaged file;
            "skip" replaces the sample by another one, which also depends on seed and position. The
            file is logged once, and the replacement has the error under the key "skipped".

    Raises:
        ConfigError: the batch cannot be divided among the processes.
    """
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {total_batch_size}; specify a multiple of the number of "
            f"processes, {world_size}"
        )
    if seed < 0:
        seed = comm.shared_random_seed()
    records = SerializedRecords(dataset)
    return ReportingLoader(
        _SeededDataset(records, mapper, seed, skip=on_error == "skip"),
        batch_size=total_batch_size // world_size,
        sampler=PositionSampler(len(records), seed=seed, start_position=start_position),
        num_workers=num_workers,
        collate_fn=_as_list,
        generator=torch.Generator().manual_seed(seed),  # leaves the global generator alone
    )


class ReportingLoader(DataLoader):
    """A DataLoader that raises errors about files without the traceback of a worker.

    A file that is skipped is logged once.
    """

    def __iter__(self) -> Iterator[list[dict]]:
        logged = set()
        for batch in super().__iter__():
            for sample in batch:
                if isinstance(sample, _Failure):
                    raise DatasetError(sample.message)
                for message in skipped_of(sample):
                    if message not in logged:
                        logged.add(message)
                        logger.warning(f"Skipped a training sample: {message}")
            yield batch


def build_hiera_test_loader(
    dataset: Iterable[dict], mapper: Callable[[dict], dict], *, num_workers: int = 0
) -> ReportingLoader:
    """Build the loader of all samples of a dataset, one at a time, divided among processes.

    Like Detectron2's ``build_detection_test_loader``, but see :class:`ReportingLoader` for errors.

    Args:
        dataset: dicts in Detectron2's format, at least one.
        mapper: maps a dict to a sample.
        num_workers: number of worker processes; 0 reads in this process.
    """
    records = SerializedRecords(dataset)
    return ReportingLoader(
        _MappedDataset(records, mapper),
        batch_size=1,
        sampler=InferenceSampler(len(records)),
        num_workers=num_workers,
        collate_fn=_as_list,
    )


def skipped_of(sample: Any) -> Sequence[str]:
    """Return the errors of the samples that this one replaces, one line each."""
    return sample.get(SKIPPED, ()) if isinstance(sample, dict) else ()


@contextlib.contextmanager
def seeded(seed: int, number: int) -> Iterator[None]:
    """Seed the global generators of numpy, ``random`` and torch (CPU) by (seed, number).

    Their states are restored afterwards.
    """
    words = np.random.SeedSequence([seed, _SAMPLE, number]).generate_state(4)
    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    try:
        np.random.seed(words[:2])
        random.seed(int(words[2]))
        # Not torch.manual_seed, which would seed the generators of GPUs too.
        torch.default_generator.manual_seed(int(words[3]))
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        torch.set_rng_state(states[2])


@dataclass
class _Failure:
    """Returned by a worker in place of a sample; torch would wrap an exception in a traceback."""

    message: str


class _MappedDataset(Dataset):
    """Map an index to a sample or a failure."""

    def __init__(self, records: Dataset, mapper: Callable[[dict], dict]):
        self.records = records
        self.mapper = PicklableWrapper(mapper)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> "dict | _Failure":
        try:
            return self.mapper(self.records[index])
        except DatasetError as error:
            return _Failure(str(error))


class _SeededDataset(_MappedDataset):
    """Map (position, index) to a sample whose random numbers depend on (seed, position)."""

    def __init__(
        self, records: Dataset, mapper: Callable[[dict], dict], seed: int, *, skip: bool = False
    ):
        super().__init__(records, mapper)
        self.seed = seed
        self.skip = skip

    def __getitem__(self, key: tuple[int, int]) -> "dict | _Failure":
        position, index = key
        sample = self._read(position, index)
        if not self.skip or not isinstance(sample, _Failure):
            return sample
        skipped = [sample.message]
        # Not the next sample of the stream, which is used at its own position.
        for index in _generator(self.seed, _REPLACEMENT, position).randint(
            len(self), size=_MAX_SKIPPED
        ):
            sample = self._read(position, int(index))
            if not isinstance(sample, _Failure):
                return {**sample, SKIPPED: skipped}
            skipped.append(sample.message)
        return _Failure(
            f"{len(skipped)} training samples in a row could not be read, the last: {skipped[-1]}"
        )

    def _read(self, position: int, index: int) -> "dict | _Failure":
        with seeded(self.seed, position):
            return super().__getitem__(index)


def _generator(seed: int, purpose: int, number: int) -> np.random.RandomState:
    # The streams of RandomState, unlike those of Generator, are the same in all numpy versions.
    sequence = np.random.SeedSequence([seed, purpose, number])
    return np.random.RandomState(np.random.MT19937(sequence))


def _as_list(batch: list[dict]) -> list[dict]:
    return batch


class ResumableLoader:
    """The training stream of a config, built when its first batch is requested.

    Its start is known only after the checkpoint has been read.

    Attributes:
        seed: determines the order of the data and all augmentations.
        start_position: samples of the stream that were used before, over all processes.
    """

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg
        self.seed = cfg.SEED
        self.start_position = 0

    def __iter__(self) -> Iterator[list[dict]]:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SEED = self.seed
        yield from build_hiera_train_loader(cfg, start_position=self.start_position)
