"""Start one process or many, on CPU or GPUs, by --num-gpus or by torchrun."""

import argparse
import atexit
import os
import signal
import socket
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.distributed.rendezvous import rendezvous

from hiera_seg.cli.arguments import check_at_least
from hiera_seg.cli.exit import exit_on_error
from hiera_seg.cli.rendezvous import agent_store
from hiera_seg.cli.start import read_config
from hiera_seg.compat import create_local_process_group, lost_contact, make_object_group
from hiera_seg.errors import ConfigError

Main = Callable[[argparse.Namespace], object]


def launch(main: Main, args: argparse.Namespace) -> None:
    """Call ``main(args)`` in every process of the job.

    torchrun has started the processes already. Otherwise ``--num-gpus`` processes are started on
    each of ``--num-machines`` machines: over nccl on GPUs, and over gloo on CPU, which Detectron2's
    ``launch`` does not support. If one process fails, all are terminated. With ``--num-gpus`` of 0
    or 1, `main` runs in this process, on MODEL.DEVICE. Processes wait for each other for at most
    DIST_TIMEOUT seconds of the config.

    Args:
        main: called with `args`.
        args: of :func:`~hiera_seg.cli.argument_parser`.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        _exit_at_once(_run_member, main, args)
    else:
        exit_on_error(_start, main, args)


def _start(main: Main, args: argparse.Namespace) -> None:
    check_at_least(args, num_machines=1, num_gpus=int(args.num_machines > 1), machine_rank=0)
    if args.machine_rank >= args.num_machines:  # the machines would wait for number 0 in vain
        raise ConfigError(
            f"--machine-rank is {args.machine_rank} and --num-machines {args.num_machines}; number "
            f"the machines from 0 to {args.num_machines - 1}"
        )
    if args.num_gpus * args.num_machines <= 1:
        main(args)
    else:
        _start_members(main, args)


def _run_member(main: Main, args: argparse.Namespace) -> None:
    """Run one of the processes that torchrun, or a launcher like it, has started."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "the environment has RANK and WORLD_SIZE, but not LOCAL_WORLD_SIZE, the number of "
            "processes on this machine; set it, or use torchrun, which sets all three"
        )
    processes = int(os.environ["LOCAL_WORLD_SIZE"])
    _check_gpus(processes, "torchrun --nproc-per-node")
    _join_group(processes, _timeout(args))
    main(args)
    dist.destroy_process_group()


def _start_members(main: Main, args: argparse.Namespace) -> None:
    _check_gpus(args.num_gpus, "--num-gpus")
    if args.dist_url == "auto":
        args.dist_url = _free_url(args.num_machines)
    try:
        mp.spawn(_worker, nprocs=args.num_gpus, args=(main, args))
    except mp.ProcessExitedException as error:
        if error.signal_name is None:  # it has printed the reason
            sys.exit(error.exit_code)
        print(
            f"error: process {error.error_index} of this machine was killed by {error.signal_name}"
            f"{' (out of memory?)' if error.signal_name == 'SIGKILL' else ''}; run the command "
            "again with --resume to continue from the last checkpoint",
            file=sys.stderr,
        )
        sys.exit(1)


def _worker(local_rank: int, main: Main, args: argparse.Namespace) -> None:
    # torch sends SIGINT to a started process when its parent dies. A shell without job control
    # starts background commands with SIGINT ignored, and child processes inherit that: they would
    # outlive a job that was killed.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _exit_at_once(_join_and_run, local_rank, main, args)


def _join_and_run(local_rank: int, main: Main, args: argparse.Namespace) -> None:
    _join_group(
        args.num_gpus,
        _timeout(args),
        init_method=args.dist_url,
        world_size=args.num_gpus * args.num_machines,
        rank=args.machine_rank * args.num_gpus + local_rank,
    )
    main(args)
    dist.destroy_process_group()


def _exit_at_once(main: Callable, *args: object) -> None:
    """Call :func:`exit_on_error`; if it exits, skip the finalization of the interpreter.

    A thread of gloo that frees a tensor while the interpreter is finalized aborts the process,
    whose exit code is then that of SIGABRT.
    """
    try:
        exit_on_error(main, *args)
    except SystemExit as error:
        if not dist.is_initialized() or not isinstance(error.code, int):
            raise
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(error.code)


def _check_gpus(processes: int, option: str) -> None:
    found = torch.cuda.device_count()
    if torch.cuda.is_available() and processes > found:
        raise ConfigError(
            f"{option} is {processes}, but this machine has {found} GPU(s) and each process needs "
            'its own; use fewer processes, or set CUDA_VISIBLE_DEVICES="" to run on the CPU'
        )


def _free_url(num_machines: int) -> str:
    if num_machines > 1:
        raise ConfigError(
            f"--dist-url is auto, which is for one machine, and --num-machines is {num_machines}; "
            "specify the address of the first machine, such as tcp://node0:29500, on all of them"
        )
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{found.getsockname()[1]}"


def _timeout(args: argparse.Namespace) -> timedelta:
    """Read DIST_TIMEOUT of the config; its errors are left to `main`, which reads it again."""
    try:
        seconds = read_config(args).DIST_TIMEOUT
    except (ConfigError, AttributeError):
        return DEFAULT_TIMEOUT
    if not seconds > 0:
        raise ConfigError(f"DIST_TIMEOUT is {seconds}; it must be a number of seconds above 0")
    return timedelta(seconds=seconds)


def _join_group(
    processes_per_machine: int,
    timeout: timedelta,
    *,
    init_method: str = "env://",
    rank: int = -1,
    world_size: int = -1,
) -> None:
    """Create the process groups; -1 and env:// use the environment variables of torchrun."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    try:
        # Some processes take long to start, so `timeout` applies only to what follows
        store = agent_store(DEFAULT_TIMEOUT) if init_method == "env://" else None
        if store is None:
            found = rendezvous(init_method, rank, world_size, timeout=DEFAULT_TIMEOUT)
            store, rank, world_size = next(found)
        else:
            rank, world_size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
        dist.init_process_group(
            backend, timeout=timeout, store=store, rank=rank, world_size=world_size
        )
    except (RuntimeError, TimeoutError) as error:
        if not lost_contact(error):
            raise
        address = "the address of torchrun" if init_method == "env://" else init_method
        raise ConfigError(
            f"the processes of this job could not connect at {address}: "
            f"{str(error).splitlines()[0]}; another job may use that port (--dist-url auto uses a "
            "free one on one machine)"
        ) from error
    make_object_group(timeout)
    create_local_process_group(processes_per_machine)
    if torch.cuda.is_available():
        torch.cuda.set_device(comm.get_local_rank())
    comm.synchronize()
