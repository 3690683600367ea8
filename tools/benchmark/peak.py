"""Print the peak memory of one side of one row, in MiB; run as a child process."""

import json
import sys

import torch

from benchmark import GROUPS
from benchmark.harness import peak_memory
from benchmark.sweep import SWEEPS, make_point

if __name__ == "__main__":
    key, side, device, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    group, index = key.split(":")
    if group in SWEEPS:
        make, from_start = make_point(group, int(index)), False
    else:
        comparison = GROUPS[group][int(index)]
        make, from_start = getattr(comparison, side), comparison.from_start
    print(json.dumps(peak_memory(make, torch.device(device), from_start)))
