"""Run the study: `python -m projects.HSSN.study.run` from the repository's root.

What is done stands in a file of json lines, one a run; the rest is done in the order of what tells
most. It can be stopped at any time and goes on where it was, within a run too.
"""

import argparse
import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from hiera_seg.checkpoint import HieraCheckpointer
from hiera_seg.cli import exit_on_error, load_config
from hiera_seg.engine import HieraTrainer
from hiera_seg.engine.hooks import EvaluationRecord
from hiera_seg.errors import ConfigError
from hiera_seg.losses import read_node_counts
from hiera_seg.modeling import HieraSegmentor

from .design import ALL_SEEDS, ARMS, DATA, PROPOSALS, STAGES
from .measure import measure
from .plan import Run, keeps_weights, ready_runs, trunk_run
from .proposals import adjust_priors, ensure_counts
from .recipes import COMMON, RECIPES
from .subsets import PREFIX, register_subsets

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
WEIGHTS = "weights.pth"  # what is kept of a run that proposals decode
NOTHING = (
    "nothing to begin: the chosen runs are there (--results with another file repeats them), or "
    "they wait for runs that were not chosen"
)
# --quick: what decides about ours on one dataset.
QUICK = {
    "data": ("person_part_lite0",),
    "arms": ("flat", "marginal_ce", "sibling_adjusted", "flat_sibling_adjusted"),
    "seeds": (0,),
    "stages": ("rate", "strength", "main"),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m projects.HSSN.study.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="json lines (%(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("output/study"), help="for configs, logs, trunks"
    )
    parser.add_argument("--data", nargs="+", choices=DATA, default=tuple(DATA), metavar="DATA")
    arms = (*ARMS, *PROPOSALS)
    parser.add_argument("--arms", nargs="+", choices=arms, default=arms, metavar="ARM")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, metavar="STAGE")
    parser.add_argument("--seeds", nargs="+", type=int, choices=ALL_SEEDS, default=ALL_SEEDS)
    parser.add_argument("--quick", action="store_true", help="a telling part, an hour of one core")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (cores)")
    parser.add_argument("--list", action="store_true", help="show what would be run next, and stop")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    if args.one:
        train(Run.from_dict(args.one), args.output, args.results)
        return
    if args.jobs < 1:
        raise ConfigError(f"--jobs is {args.jobs}; it must be 1 or more")
    chosen = {name: getattr(args, name) for name in QUICK}
    if args.quick:
        chosen = QUICK
    running: dict[str, subprocess.Popen] = {}
    failed: set[str] = set()
    begun = 0
    while True:
        ended = {key: process for key, process in running.items() if process.poll() is not None}
        if running and not ended:  # nothing new could be begun
            time.sleep(1)
            continue
        for key, process in ended.items():
            del running[key]
            if process.returncode:
                failed.add(key)
                print(f"{key}: failed, see {args.output / key / 'log.txt'}", file=sys.stderr)
        results = read_results(args.results)
        waiting = [
            run
            for run in ready_runs(results, **chosen)
            if run.key not in running and run.key not in failed
        ]
        if args.list:
            print("\n".join(run.key for run in waiting) or NOTHING)
            return
        while waiting and len(running) < args.jobs:
            run = waiting.pop(0)
            running[run.key] = start(run, args)
            begun += 1
            print(f"{time.strftime('%H:%M:%S')} {run.key}", flush=True)
        if not running:
            break
    print(f"{len(read_results(args.results))} runs in {args.results}")
    if not begun:
        print(NOTHING)
    if failed:
        sys.exit(1)


def start(run: Run, args: argparse.Namespace) -> subprocess.Popen:
    """Start a run in a separate process with one thread."""
    command = [
        sys.executable, "-m", f"{__package__}.run", "--one", json.dumps(run.as_dict()),
        "--output", str(args.output), "--results", str(args.results),
    ]  # fmt: skip
    folder = args.output / run.key
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "stderr.txt", "a") as errors:
        return subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Return the results by key; an incomplete line of a killed process is skipped."""
    results = {}
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                result = json.loads(line)
            except json.JSONDecodeError:
                continue
            results[result["key"]] = result
    return results


def add_result(path: Path, result: dict[str, Any]) -> None:
    """Append a line, which several processes may do at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a killed process left half a line
                file.write(b"\n")
        file.write(json.dumps(result).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def make_config(run: Run, output: Path) -> CfgNode:
    """Return the config of a run, from its dataset, its arm and the plan."""
    dataset, arm = run.settings()
    names = tuple(f"{PREFIX}_{run.data}_{part}" for part in run.train)
    cfg = load_config(str(dataset), [])
    cfg.merge_from_file(str(arm))
    cfg.DATASETS.TRAIN = names
    cfg.DATASETS.TEST = ()
    cfg.SEED = run.seed
    cfg.SOLVER.BASE_LR = run.rate
    cfg.SOLVER.MAX_ITER = run.iterations
    if run.stage == "main" and not run.weights and DATA[run.data].watched:
        cfg.DATASETS.TEST = (DATA[run.data].watched,)
        cfg.TEST.EVAL_PERIOD = max(run.iterations // 6, 1)
    cfg.MODEL.WEIGHTS = str(trunk_file(run.data, output)) if run.trunk else ""
    if run.recipe:
        cfg.merge_from_list([*COMMON, *RECIPES[run.recipe][2]])
        cfg.SOLVER.WARMUP_ITERS = run.iterations // 10
    if run.weights:
        cfg.MODEL.WEIGHTS = str(output / run.weights / WEIGHTS)
    if run.arm.endswith("sibling_adjusted"):
        adjustment = cfg.MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT
        adjustment.TAU, adjustment.FILE = run.strength, str(counts_file(run, output))
    cfg.OUTPUT_DIR = str(output / run.key)
    cfg.freeze()
    return cfg


def trunk_file(data: str, output: Path) -> Path:
    return output / f"trunk-{data}.pth"


def counts_file(run: Run, output: Path) -> Path:
    return output / f"counts-{run.data}-{'-'.join(run.train)}.json"


def train(run: Run, output: Path, results: Path) -> None:
    """Train a network, measure it, and add its line to the results."""
    data = DATA[run.data]
    register_subsets(run.data, data.train, held_out=data.held_out, middle_level=data.middle_level)
    torch.set_num_threads(1)
    seed_all_rng(run.seed)  # initial weights; as tools/train_net.py does
    cfg = make_config(run, output)
    folder = Path(cfg.OUTPUT_DIR)
    for name in ("detectron2", "fvcore", "hiera_seg"):
        setup_logger(str(folder), name=name)
    (folder / "config.yaml").write_text(cfg.dump())
    if run.weights:
        model, trained = load_proposal(run, cfg, counts_file(run, output)), {}
    else:
        model, trained = train_arm(cfg)
    found = measure(model.eval(), HieraTrainer.build_test_loader(cfg, run.test), run.test)
    if run.stage in ("recipe", "trunk", "rate", "strength"):  # not compared with others
        del found["bootstrap"]
    if run == trunk_run(run.data):
        save_trunk(model, trunk_file(run.data, output))
    if keeps_weights(run):
        torch.save({"model": model.state_dict()}, folder / WEIGHTS)  # before a line says it is done
    add_result(
        results,
        {
            **run.as_dict(),
            **found,
            **trained,
            "levels": list(model.hierarchy.level_names),
            "leaves": list(model.hierarchy.display_names[: model.hierarchy.num_leaves]),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "processor": processor(),
        },
    )
    (folder / "last_checkpoint").unlink(missing_ok=True)  # first: it names one of them
    for checkpoint in folder.glob("model_*.pth"):
        checkpoint.unlink()


def train_arm(cfg: CfgNode) -> tuple[HieraSegmentor, dict[str, Any]]:
    """Train, or resume a training, and return the model and the numbers of the training."""
    trainer = HieraTrainer(cfg)
    trainer.resume_or_load(resume=True)
    begun, start = trainer.start_iter, time.process_time()
    trainer.train()
    seconds, iterations = time.process_time() - start, cfg.SOLVER.MAX_ITER - begun
    return trainer.model, {
        "seconds_per_iteration": round(seconds / iterations, 4) if iterations else None,
        "loss": last_loss(Path(cfg.OUTPUT_DIR) / "metrics.json"),
        "curve": learning_curve(Path(cfg.OUTPUT_DIR), trainer.model.hierarchy.level_names),
    }


def processor() -> str:
    """Return the name of this machine's processor, if the system provides it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")


def load_proposal(run: Run, cfg: CfgNode, counts: Path) -> HieraSegmentor:
    """Return the model of another run with the decoding of a proposal."""
    ensure_counts(cfg.DATASETS.TRAIN, counts)
    model = HieraTrainer.build_model(cfg)
    HieraCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    if run.arm.endswith("prior_adjusted"):
        adjust_priors(model, read_node_counts(counts, model.hierarchy), run.strength)
    return model


def save_trunk(model: HieraSegmentor, path: Path) -> None:
    """Keep backbone and decoder, and initialize the classifier in the same way for all arms."""
    state = {k: v for k, v in model.state_dict().items() if "sem_seg_head.predictor" not in k}
    generator = torch.Generator().manual_seed(0)
    predictor = model.sem_seg_head.predictor
    weight = torch.zeros_like(predictor.weight, memory_format=torch.contiguous_format)
    state["sem_seg_head.predictor.weight"] = weight.normal_(std=0.001, generator=generator)
    state["sem_seg_head.predictor.bias"] = torch.zeros_like(predictor.bias)
    torch.save({"model": state}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def learning_curve(folder: Path, levels: Iterable[str]) -> list[list[float]]:
    """Return iteration and mIoU of each level, coarse to fine, of evaluations during a training."""
    record = EvaluationRecord(str(folder))
    if not record.path.is_file():
        return []
    lines = [json.loads(line) for line in record.path.read_text().splitlines()]
    return [
        [line["iteration"], *(round(line[f"sem_seg/mIoU_{level}"], 3) for level in levels)]
        for line in lines
    ]


def last_loss(path: Path) -> float | None:
    """Return the mean of the last ten logged losses of a run; None if it is not finite."""
    losses = [json.loads(line).get("total_loss") for line in path.read_text().splitlines()]
    losses = [loss for loss in losses if loss is not None][-10:]
    return round(sum(losses) / len(losses), 5) if losses else None


if __name__ == "__main__":
    exit_on_error(main, parse_args())
