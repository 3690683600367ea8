"""How many threads a process starts, and how they wait."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from hiera_seg.cli import read_config, threads
from hiera_seg.cli.threads import available_cpus, let_threads_sleep, set_threads

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Set the affinity, the text of /proc/self/cgroup and the files of control groups."""

    def set_to(cpus: int, lines: str, **quotas: str) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
        read_text = Path.read_text

        def read(path, *args, **options):
            return lines if str(path) == "/proc/self/cgroup" else read_text(path, *args, **options)

        monkeypatch.setattr(Path, "read_text", read)
        monkeypatch.setattr(threads, "_GROUPS", tmp_path)
        for name, text in quotas.items():
            file = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return set_to


@pytest.mark.parametrize(
    "lines, quotas, expected",
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu_dot_max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu_dot_max": "350000 100000\n"}, 3),
        ("0::/\n", {"cpu_dot_max": "50000 100000\n"}, 1),
        ("0::/job/a\n", {"job__cpu_dot_max": "200000 100000\n", "job__a__cpu_dot_max": "max 1"}, 2),
        ("0::/of/the/host\n", {"cpu_dot_max": "400000 100000\n"}, 4),
        (
            "3:memory:/x\n1:cpu,cpuacct:/x\n0::/\n",
            {
                "cpu,cpuacct__x__cpu_dot_cfs_quota_us": "200000\n",
                "cpu,cpuacct__x__cpu_dot_cfs_period_us": "100000\n",
            },
            2,
        ),
        ("1:cpu:/\n", {"cpu__cpu_dot_cfs_quota_us": "-1", "cpu__cpu_dot_cfs_period_us": "1"}, 8),
    ],
)
def test_cpus_of_a_process_by_affinity_and_quota(machine, lines, quotas, expected):
    machine(8, lines, **quotas)
    assert available_cpus() == expected


@pytest.mark.parametrize(
    "number, processes, given, expected",
    [(0, 1, None, 6), (0, 2, None, 3), (0, 9, None, 1), (0, 2, "4", None), (5, 2, "4", 5)],
)
def test_threads_of_a_process(monkeypatch, number, processes, given, expected):
    monkeypatch.setattr(threads, "available_cpus", lambda: 6)
    monkeypatch.setattr(comm, "get_local_size", lambda: processes)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    found = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    set_threads(number)
    assert found == ([] if expected is None else [expected])


def test_every_tool_that_reads_a_config_sets_the_threads(monkeypatch):
    found = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    read_config(argparse.Namespace(config_file="", opts=["NUM_THREADS", "3"]))
    assert found == [3]


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_threads_sleep_soon_unless_the_environment_says_how_they_wait(monkeypatch, name):
    for variable in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(variable, "")  # so that it is restored
        monkeypatch.delenv(variable)
    let_threads_sleep()
    assert os.environ["GOMP_SPINCOUNT"].isdigit() and "KMP_BLOCKTIME" in os.environ
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.delenv("KMP_BLOCKTIME")
    monkeypatch.setenv(name, "7")
    let_threads_sleep()
    assert os.environ[name] == "7"
    assert ("GOMP_SPINCOUNT" in os.environ) == (name == "GOMP_SPINCOUNT")


@pytest.mark.parametrize("name", ["launch", "load_config", "setup"])
def test_how_threads_wait_is_set_before_torch_is_imported(name):
    code = f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})

class Look:
    def find_spec(self, module, *_):
        if module == "torch":
            print("first torch", os.environ.get("GOMP_SPINCOUNT"))
            os._exit(0)

sys.meta_path.insert(0, Look())
from hiera_seg.cli import {name}
"""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [sys.executable, "-u", "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.startswith("first torch ") and done.stdout.split()[-1].isdigit()
