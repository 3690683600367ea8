"""Child process of the benchmark: prints the peak memory of one side of one comparison, MiB."""

import json
import sys

import torch

from hiera_seg.engine.benchmark import GROUPS
from hiera_seg.engine.benchmark.harness import peak_memory

if __name__ == "__main__":
    key, side, device, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    group, index = key.split(":")
    comparison = GROUPS[group][int(index)]
    make = getattr(comparison, side)
    print(json.dumps(peak_memory(make, torch.device(device), comparison.from_start)))
