"""Many samples: listed one by one, held as bytes that worker processes share."""

import json
import pickle
import time
from itertools import product
from multiprocessing.reduction import ForkingPickler

import pytest
from detectron2.data import DatasetCatalog

from hiera_seg.data import build_hiera_train_loader, json_files, register_hierarchical_dataset
from hiera_seg.data.records import SerializedRecords, iterate_records
from hiera_seg.errors import DatasetError
from tests.data.test_loader import take
from tests.helpers import run_python

NUM = 100_000


def made_up(num):
    for i in range(num):
        folder = f"city_{i % 40:02d}/sequence_{i // 1000:04d}"
        yield {
            "file_name": f"{folder}/frame_{i:07d}.jpg", "sem_seg_file_name": f"{folder}/{i:07d}.png"
        }  # fmt: skip


def name_of(record):
    """A mapper that reads no file."""
    return {"name": record["file_name"]}


def test_records_are_given_back():
    records = [{"a": i, "b": [None] * i} for i in range(5)]
    held = SerializedRecords(iter(records))
    assert [held[i] for i in range(len(held))] == list(held) == records
    assert len(SerializedRecords([])) == 0
    for index in (-1, 5):
        with pytest.raises(IndexError):
            held[index]
    assert pickle.loads(pickle.dumps(held))[3] == records[3]


def test_workers_share_the_buffer():
    held = SerializedRecords(made_up(100))
    # The form in which torch sends it to a process that is not forked: no copy of the content.
    sent = ForkingPickler.dumps(held)
    assert len(sent) < 1500 < len(held._bytes)


def test_datasets_are_listed_one_by_one(tree):
    listed = []

    def source():
        for record in made_up(3):
            listed.append(record)
            yield record

    register_hierarchical_dataset("a", source, hierarchy=tree, image_root="i", sem_seg_root="l")
    DatasetCatalog.register("plain", lambda: list(made_up(1)))
    DatasetCatalog.register("empty", list)
    records = iterate_records(["a", "plain"])
    assert next(records)["dataset_name"] == "a" and len(listed) == 1
    assert len(list(records)) == 3 and len(DatasetCatalog.get("a")) == 3
    with pytest.raises(DatasetError, match="'empty' is empty"):
        list(iterate_records(["plain", "empty"]))


def test_many_samples_start_quickly_and_resume_anywhere(tree, tmp_path):
    register_hierarchical_dataset("many", lambda: made_up(NUM), hierarchy=tree)
    start = time.process_time()
    options = {"mapper": name_of, "total_batch_size": 4, "seed": 1}
    whole = build_hiera_train_loader(iterate_records(["many"]), **options)
    first = take(whole, 2)
    late = build_hiera_train_loader(
        iterate_records(["many"]), start_position=9 * NUM // 10, num_workers=2, **options
    )
    batch = take(late, 1)
    assert time.process_time() - start < 12  # 2 s alone on a processor of 2024
    assert len(whole.dataset) == NUM
    bytes_each = len(whole.dataset.records._bytes) / NUM
    assert bytes_each < 300
    seen = {sample["name"] for samples in [*first, *batch] for sample in samples}
    assert len(seen) == 12  # an epoch names each sample once


_PEAK = """
import sys
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.data.records import SerializedRecords, iterate_records
from tests.helpers import memory_of_process

register_hierarchical_dataset("many", sys.argv[1], hierarchy="cityscapes")
before = memory_of_process("VmRSS")
size = len(SerializedRecords(iterate_records(["many"]))._bytes)
print(size, memory_of_process("VmHWM") - before)
"""


def test_a_json_list_takes_little_more_memory_than_its_bytes(tmp_path):
    """Its dicts and its text would take more than three times as much."""
    path = tmp_path / "list.json"
    path.write_text(json.dumps(list(made_up(NUM))))
    done = run_python("-c", _PEAK, path)
    assert done.returncode == 0, done.stderr
    size, peak = map(int, done.stdout.split())
    assert NUM * 100 < size < peak < 1.6 * size


_ENTRIES = ["12", "-1.5e3", '"a]\\"}, "', "true", '{"a": [1, {"a": 2, "a": 3}], "b": ""}', "[ ]"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
def test_entries_of_a_json_list_do_not_depend_on_chunks(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_files, "_CHUNK", chunk)
    path = tmp_path / "list.json"
    for space, first, second in product(["", " \n\t"], _ENTRIES, _ENTRIES):
        text = space.join(["[", first, ",", second, "]", ""])
        path.write_text(text, "utf-8-sig" if space else "utf-8")
        entries = json_files.iterate_json_list(path)
        assert [next(entries), next(entries)] == json.loads(text)
        with pytest.raises(StopIteration) as end:
            next(entries)
        assert end.value.value is None


@pytest.mark.parametrize("chunk", [1, 1000])
@pytest.mark.parametrize(
    "text, count",
    [
        ("[]", 0),
        ("{}", 0),
        ("[1, 2", 1),
        ("[1 2]", 0),
        ("[1, ]", 1),
        ("[1] 2", 1),
    ],
)
def test_a_json_list_with_a_fault_is_left_to_the_whole_reader(
    tmp_path, monkeypatch, chunk, text, count
):
    monkeypatch.setattr(json_files, "_CHUNK", chunk)
    path = tmp_path / "list.json"
    path.write_text(text)
    entries = json_files.iterate_json_list(path)
    assert [next(entries) for _ in range(count)] == [1][:count]
    with pytest.raises(StopIteration) as end:
        next(entries)
    assert end.value.value == count


def test_entries_of_a_json_list_share_their_keys(tmp_path):
    path = tmp_path / "list.json"
    path.write_text('[{"file_name": "a"}, {"file_name": "b"}]')
    first, second = json_files.iterate_json_list(path)
    assert next(iter(first)) is next(iter(second))
