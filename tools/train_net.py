#!/usr/bin/env python
"""Train or evaluate the model of a config file."""

import argparse

from hiera_seg.cli import argument_parser

EPILOG = """
examples:
  train on this machine's GPU, or on its CPU where there is none
    tools/train_net.py --config-file configs/CamVid/hssn_deeplab_v3_plus_r18.yaml
  resume after an interruption
    tools/train_net.py --config-file ... --resume
  evaluate the last checkpoint in OUTPUT_DIR, or another one
    tools/train_net.py --config-file ... --eval-only [MODEL.WEIGHTS model.pth]
  check in seconds whether a config works, without a dataset or download
    tools/train_net.py --config-file ... --fast-dev-run [--iterations 20]
  print the changed config keys and the labels of one batch, and train nothing
    tools/train_net.py --config-file ... --dry-run
  train on a custom dataset, which my_datasets.py registers
    tools/train_net.py --import my_datasets --config-file my_config.yaml
  several GPUs
    tools/train_net.py --config-file ... --num-gpus 8
    torchrun --nproc-per-node 8 tools/train_net.py --config-file ...
"""


def main(args: argparse.Namespace) -> dict | None:
    from hiera_seg.cli import setup
    from hiera_seg.data.catalog import import_modules
    from hiera_seg.engine import HieraTrainer

    import_modules(args.modules, tool=__file__)
    if args.fast_dev_run or args.dry_run:
        return try_config(args)
    cfg = setup(args)
    if args.eval_only:
        return HieraTrainer.evaluate(cfg, resume=args.resume, opts=args.opts)
    trainer = HieraTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def try_config(args: argparse.Namespace) -> None:
    from hiera_seg.cli import read_config
    from hiera_seg.diagnostics import dry_run, fast_dev_run

    cfg = read_config(args)
    if args.dry_run:
        print(dry_run(cfg))
    else:
        print(f"{args.config_file}: {fast_dev_run(cfg, iterations=args.iterations)}")


def command_line() -> None:
    parser = argument_parser(EPILOG)
    args = parser.parse_args()
    if (args.dry_run or args.fast_dev_run) and args.num_gpus * args.num_machines > 1:
        parser.error("--dry-run and --fast-dev-run use one process; remove --num-gpus")
    if args.dry_run + args.fast_dev_run + args.eval_only > 1:
        parser.error("choose one of --dry-run, --fast-dev-run and --eval-only")
    if args.iterations != 1 and not args.fast_dev_run:
        parser.error("--iterations is an option of --fast-dev-run; add it")
    from hiera_seg.cli import launch

    launch(main, args)


if __name__ == "__main__":
    command_line()
