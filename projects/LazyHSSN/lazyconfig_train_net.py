#!/usr/bin/env python
"""Train or evaluate the model of a LazyConfig, a Python file."""

import argparse

from hiera_seg.cli import argument_parser

EPILOG = """
examples:
  projects/LazyHSSN/lazyconfig_train_net.py --config-file projects/LazyHSSN/configs/generated_deeplab_v3_plus_r18.py
  two iterations, with another output folder
    projects/LazyHSSN/lazyconfig_train_net.py --config-file ... train.max_iter=2 train.output_dir=output/try
  evaluate a checkpoint
    projects/LazyHSSN/lazyconfig_train_net.py --config-file ... --eval-only train.init_checkpoint=model_final.pth
"""  # noqa: E501


def main(args: argparse.Namespace) -> None:
    from lazy_training import build_lazy_model, evaluate_lazily, setup_lazily, train_lazily

    from hiera_seg.data.catalog import import_modules
    from hiera_seg.inference.weights import find_weights, load_for_eval

    import_modules(args.modules, tool=__file__)
    cfg = setup_lazily(args)
    if not args.eval_only:
        train_lazily(cfg, resume=args.resume)
        return
    key = "train.init_checkpoint"
    typed = any(word.lstrip("+").startswith(f"{key}=") for word in args.opts)
    path = find_weights(
        cfg.train.init_checkpoint, cfg.train.output_dir, typed=typed, resume=args.resume, key=key
    )
    model = build_lazy_model(cfg)
    load_for_eval(model, path)
    evaluate_lazily(cfg, model)


if __name__ == "__main__":
    arguments = argument_parser(EPILOG, trials=False).parse_args()
    from hiera_seg.cli import launch

    launch(main, arguments)
