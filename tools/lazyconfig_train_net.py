#!/usr/bin/env python
"""Train or evaluate what a LazyConfig, a Python file, describes."""

import argparse

from detectron2.engine import default_setup

from hiera_seg.checkpoint import allow_unsafe_pickle
from hiera_seg.data.catalog import import_modules
from hiera_seg.engine import HieraCheckpointer, argument_parser, launch
from hiera_seg.engine.lazy import (
    build_lazy_model,
    evaluate_lazily,
    load_lazy_config,
    train_lazily,
)

EPILOG = """
examples:
  tools/lazyconfig_train_net.py --config-file projects/LazyHSSN/configs/generated_deeplab_v3_plus_r18.py
  the same for two iterations, into another folder
    tools/lazyconfig_train_net.py --config-file ... train.max_iter=2 train.output_dir=output/try
  evaluate a checkpoint
    tools/lazyconfig_train_net.py --config-file ... --eval-only train.init_checkpoint=model_final.pth
"""  # noqa: E501


def main(args: argparse.Namespace) -> None:
    import_modules(args.modules)
    allow_unsafe_pickle(args.unsafe_pickle)
    cfg = load_lazy_config(args.config_file, args.opts)
    default_setup(cfg, args)
    if not args.eval_only:
        train_lazily(cfg, resume=args.resume)
        return
    model = build_lazy_model(cfg)
    checkpointer = HieraCheckpointer(model, cfg.train.output_dir)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    evaluate_lazily(cfg, model)


if __name__ == "__main__":
    launch(main, argument_parser(EPILOG).parse_args())
