#!/usr/bin/env python
"""Train or evaluate what a LazyConfig, a Python file, describes."""

import argparse

from hiera_seg.data.catalog import import_modules
from hiera_seg.engine import argument_parser, launch
from hiera_seg.engine.lazy import (
    build_lazy_model,
    evaluate_lazily,
    setup_lazily,
    train_lazily,
)
from hiera_seg.engine.trained import load_to_evaluate

EPILOG = """
examples:
  tools/lazyconfig_train_net.py --config-file projects/LazyHSSN/configs/generated_deeplab_v3_plus_r18.py
  the same for two iterations, into another folder
    tools/lazyconfig_train_net.py --config-file ... train.max_iter=2 train.output_dir=output/try
  evaluate a checkpoint
    tools/lazyconfig_train_net.py --config-file ... --eval-only train.init_checkpoint=model_final.pth
"""  # noqa: E501


def main(args: argparse.Namespace) -> None:
    import_modules(args.modules, tool=__file__)
    cfg = setup_lazily(args)
    if not args.eval_only:
        train_lazily(cfg, resume=args.resume)
        return
    model = build_lazy_model(cfg)
    folder, weights = cfg.train.output_dir, cfg.train.init_checkpoint
    load_to_evaluate(model, folder, weights, resume=args.resume, key="train.init_checkpoint")
    evaluate_lazily(cfg, model)


if __name__ == "__main__":
    launch(main, argument_parser(EPILOG, trials=False).parse_args())
