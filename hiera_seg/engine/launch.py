"""Starting one process or many: on CPU or GPUs, by --num-gpus or by torchrun."""

import argparse
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import launch as launch_on_gpus
from detectron2.utils import comm

from hiera_seg.compat import create_local_process_group
from hiera_seg.engine.cli import exit_on_error


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Call ``main(args)`` in every process of the job.

    Under torchrun the processes are there already. Otherwise ``--num-gpus`` of them are started on
    each of ``--num-machines``: by Detectron2's ``launch`` where there are GPUs, and over gloo on
    CPU, which that one can not do.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        _join_group(processes_per_machine=int(os.environ["LOCAL_WORLD_SIZE"]))
        exit_on_error(main, args)
    elif args.num_gpus * args.num_machines == 1:
        exit_on_error(main, args)
    elif torch.cuda.is_available():
        launch_on_gpus(
            exit_on_error,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args),
        )
    else:
        mp.spawn(_cpu_worker, nprocs=args.num_gpus, args=(main, args))


def _cpu_worker(
    local_rank: int, main: Callable[[argparse.Namespace], object], args: argparse.Namespace
) -> None:
    _join_group(
        processes_per_machine=args.num_gpus,
        init_method=args.dist_url,
        world_size=args.num_gpus * args.num_machines,
        rank=args.machine_rank * args.num_gpus + local_rank,
    )
    exit_on_error(main, args)


def _join_group(processes_per_machine: int, **init_args: object) -> None:
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", **init_args)
    create_local_process_group(processes_per_machine)
    if torch.cuda.is_available():
        torch.cuda.set_device(comm.get_local_rank())
    comm.synchronize()
