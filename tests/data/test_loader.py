import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from detectron2.utils import comm

from hiera_seg.data import PositionSampler, build_hiera_train_loader
from hiera_seg.data.loader import seeded
from hiera_seg.errors import ConfigError, DatasetError
from tests.helpers import new_config

BAD_IDS = {2, 5}


def take(iterable, count):
    return list(itertools.islice(iterable, count))


def drawing_mapper(record):
    """A mapper that draws from every global generator."""
    draws = [np.random.rand(), random.random(), torch.rand(1).item()]
    return {"id": record["id"], "draws": draws}


def loader_of(size=7, batch=4, **options):
    options = {"mapper": drawing_mapper, "seed": 3, **options}
    records = [{"id": i} for i in range(size)]
    return build_hiera_train_loader(records, total_batch_size=batch, **options)


def breaking_mapper(record):
    """As drawing_mapper, but the files of some records are damaged."""
    if record["id"] in BAD_IDS:
        raise DatasetError(f"cannot read image file {record['id']}.jpg")
    return drawing_mapper(record)


def skipping_loader(size=7, batch=4, **options):
    return loader_of(size, batch, mapper=breaking_mapper, on_error="skip", **options)


@pytest.fixture
def as_process(monkeypatch):
    def pretend(rank, world_size):
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)

    return pretend


# -- the sampler -----------------------------------------------------------------------------


def test_positions_count_up_and_every_epoch_has_every_index():
    stream = take(PositionSampler(10, seed=1), 40)
    assert [position for position, _ in stream] == list(range(40))
    epochs = [[i for _, i in stream[e : e + 10]] for e in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [i for _, i in stream] != [i for _, i in take(PositionSampler(10, seed=2), 40)]


def test_the_order_is_fixed_for_all_time():
    # Written down once: a change of these numbers changes what every resumed run sees.
    assert take(PositionSampler(6, seed=1), 8) == [
        (0, 4), (1, 1), (2, 3), (3, 0), (4, 2), (5, 5), (6, 3), (7, 1),
    ]  # fmt: skip


def test_a_stream_can_be_entered_anywhere():
    whole = take(PositionSampler(7, seed=5), 60)
    for start in (0, 1, 6, 7, 33):
        assert take(PositionSampler(7, seed=5, start_position=start), 20) == whole[start:][:20]


def test_processes_share_one_stream():
    whole = take(PositionSampler(7, seed=5), 60)
    for world in (2, 3):
        parts = [
            take(PositionSampler(7, seed=5, rank=r, world_size=world), 60 // world)
            for r in range(world)
        ]
        together = [item for step in zip(*parts, strict=True) for item in step]
        assert together == whole


def test_other_streams():
    stream = take(PositionSampler(3, seed=0, shuffle=False, start_position=2), 4)
    assert stream == [(2, 2), (3, 0), (4, 1), (5, 2)]
    with pytest.raises(ValueError, match="size is 0"):
        PositionSampler(0, seed=1)
    with pytest.raises(ValueError, match="start_position -1"):
        PositionSampler(3, seed=1, start_position=-1)


# -- the loader ------------------------------------------------------------------------------


def test_batches_do_not_depend_on_the_number_of_workers():
    expected = take(loader_of(), 6)
    assert len(expected[0]) == 4
    for workers in (1, 2):
        assert take(loader_of(num_workers=workers), 6) == expected
    assert take(loader_of(seed=4), 6) != expected


def test_one_image_is_drawn_anew_in_every_epoch():
    samples = [s for batch in take(loader_of(size=2, batch=2), 5) for s in batch]
    assert len({tuple(s["draws"]) for s in samples}) == 10
    assert len({d for s in samples for d in s["draws"]}) == 30


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restarted_stream_continues(workers):
    whole = take(loader_of(), 8)
    assert take(loader_of(start_position=5 * 4, num_workers=workers), 3) == whole[5:]


def test_two_processes_see_one_global_batch(as_process):
    whole = take(loader_of(), 6)
    parts = []
    for rank in range(2):
        as_process(rank, 2)
        parts.append(take(loader_of(), 6))
    for step, batch in enumerate(whole):
        assert parts[0][step] == batch[0::2] and parts[1][step] == batch[1::2]


def test_a_batch_that_cannot_be_divided_is_refused(as_process):
    as_process(0, 3)
    with pytest.raises(ConfigError, match=r"SOLVER.IMS_PER_BATCH is 4; .*, 3"):
        loader_of()


def test_global_generators_go_on_as_if_nothing_was_drawn():
    def draw():
        return np.random.rand(), random.random(), torch.rand(1).item()

    for seed in (np.random.seed, random.seed, torch.manual_seed):
        seed(11)
    expected = [draw(), draw()]
    for seed in (np.random.seed, random.seed, torch.manual_seed):
        seed(11)
    first = draw()
    take(loader_of(), 3)
    with pytest.raises(KeyError), seeded(1, 2):
        draw()
        raise KeyError
    assert [first, draw()] == expected


def test_a_seed_is_drawn_when_none_is_given():
    first, second = (loader_of(seed=-1).sampler.seed for _ in range(2))
    assert first >= 0 and first != second


def test_the_dataset_can_be_sent_to_a_fresh_process():
    dataset = pickle.loads(pickle.dumps(loader_of().dataset))
    assert dataset[(9, 3)] == loader_of().dataset[(9, 3)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_reported_in_one_line_at_its_batch(workers):
    loader = loader_of(6, 2, mapper=breaking_mapper, num_workers=workers, seed=1)
    # The stream begins 4 1 3 0 2 5: the third batch fails, the first two are there.
    batches = iter(loader)
    assert [[s["id"] for s in next(batches)] for _ in range(2)] == [[4, 1], [3, 0]]
    with pytest.raises(DatasetError) as error:
        next(batches)
    assert str(error.value) == "cannot read image file 2.jpg"


# -- from a config ---------------------------------------------------------------------------


@pytest.fixture
def cfg(register):
    rng = np.random.default_rng(0)
    register("toy", {f"{i}": rng.integers(0, 5, (30, 40)).astype(np.uint8) for i in range(5)})
    cfg = new_config()
    cfg.DATASETS.TRAIN = ("toy",)
    cfg.SEED = 8
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (20, 30, 40)
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE = True, "absolute"
    cfg.INPUT.CROP.SIZE, cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = [16, 24], 0.75
    return cfg


def same(batches, others):
    return all(
        torch.equal(s["image"], o["image"]) and torch.equal(s["sem_seg"], o["sem_seg"])
        for batch, other in zip(batches, others, strict=True)
        for s, o in zip(batch, other, strict=True)
    )


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(cfg):
    whole = take(build_hiera_train_loader(cfg), 6)
    assert len(whole[0]) == 2 and whole[0][0]["image"].shape == (3, 16, 24)
    cfg.DATALOADER.NUM_WORKERS = 2
    np.random.seed(99), random.seed(99)
    assert same(take(build_hiera_train_loader(cfg, start_iter=4), 2), whole[4:])
    assert not same(whole[:2], whole[4:])
    cfg.SEED = 9
    assert not same(take(build_hiera_train_loader(cfg), 2), whole[:2])


def test_start_position_is_for_another_batch_size(cfg):
    whole = [s for batch in take(build_hiera_train_loader(cfg), 6) for s in batch]
    cfg.SOLVER.IMS_PER_BATCH = 3
    loader = build_hiera_train_loader(cfg, start_position=6)
    assert same(take(loader, 2), [whole[6:9], whole[9:12]])


def test_a_mapper_of_your_own(cfg):
    loader = build_hiera_train_loader(cfg, lambda record: {"seen": record["file_name"]})
    assert next(iter(loader))[0]["seen"].endswith(".png")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("DATASETS.TRAIN", (), "DATASETS.TRAIN is empty"),
        ("DATASETS.TRAIN", ("hiera_camvid_trian",), "'hiera_camvid_trian', which is not regist"),
        ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler", "SAMPLER_TRAIN is 'RandomSub"),
    ],
)
def test_configs_of_other_streams_are_refused(cfg, key, value, message):
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=message):
        build_hiera_train_loader(cfg)


# -- samples that cannot be read ------------------------------------------------------------


@pytest.fixture(scope="module")
def skipped_stream():
    """40 samples, two of seven files damaged."""
    return list(itertools.chain(*take(skipping_loader(), 10)))


def test_a_bad_sample_is_replaced_and_the_others_stay_what_they_were(skipped_stream):
    whole = list(itertools.chain(*take(loader_of(), 10)))
    replaced = [i for i, sample in enumerate(whole) if sample["id"] in BAD_IDS]
    assert len(replaced) >= 10  # 2 in each of five whole epochs
    for i, (sample, expected) in enumerate(zip(skipped_stream, whole, strict=True)):
        if i in replaced:
            assert sample["id"] not in BAD_IDS
            assert sample["skipped"][0] == f"cannot read image file {expected['id']}.jpg"
            assert sample["draws"] == expected["draws"]  # they belong to the position
        else:
            assert sample == expected
    assert len({skipped_stream[i]["id"] for i in replaced}) > 2  # no single stand-in


def test_replacements_depend_on_the_position_alone(skipped_stream, as_process):
    assert list(itertools.chain(*take(skipping_loader(num_workers=2), 10))) == skipped_stream
    later = take(skipping_loader(start_position=12), 7)
    assert list(itertools.chain(*later)) == skipped_stream[12:]
    parts = []
    for rank in range(2):
        as_process(rank, 2)
        parts.append(itertools.chain(*take(skipping_loader(), 10)))
    assert list(itertools.chain(*zip(*parts, strict=True))) == skipped_stream


def test_a_bad_file_is_logged_once(skipped_stream, caplog):
    with caplog.at_level("WARNING", logger="hiera_seg.data.loader"):
        take(skipping_loader(), 10)
    assert sorted(caplog.messages) == [
        f"Skipped a training sample: cannot read image file {i}.jpg" for i in sorted(BAD_IDS)
    ]


def test_a_dataset_of_bad_files_ends_the_run_in_any_case():
    def damaged(record):
        raise DatasetError(f"cannot read image file {record['id']}.jpg")

    loader = loader_of(2, 1, mapper=damaged, on_error="skip")
    with pytest.raises(DatasetError, match=r"21 training samples in a row .* file [01]\.jpg"):
        next(iter(loader))
