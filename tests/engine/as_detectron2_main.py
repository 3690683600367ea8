"""Train, resume, evaluate and predict with a Detectron2 that differs from 0.6 as its main does.

    python tests/engine/as_detectron2_main.py FOLDER

Where 0.6 is installed, ``simulate_main`` first patches it with those differences from main that
this package's code depends on. Where main is installed, the script runs it as it is.
"""

import dataclasses
import sys
from pathlib import Path

import cv2
import detectron2.layers
import numpy as np
from detectron2.engine import HookBase, SimpleTrainer, TrainerBase
from detectron2.utils import comm


def simulate_main() -> None:
    """Patch Detectron2 0.6; call this before importing hiera_seg."""
    fields = [(name, object, None) for name in ("channels", "height", "width", "stride")]
    shape_spec = dataclasses.make_dataclass("ShapeSpec", fields)
    shape_spec.__module__ = "detectron2.layers.shape_spec"  # where instantiate looks for it
    detectron2.layers.shape_spec.ShapeSpec = detectron2.layers.ShapeSpec = shape_spec

    def init(self, model, data_loader, optimizer):
        TrainerBase.__init__(self)
        model.train()
        self.model, self.data_loader, self.optimizer = model, data_loader, optimizer
        self._data_loader_iter_obj = None

    def data_loader_iter(self):
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def after_backward(self):
        for hook in self._hooks:
            hook.after_backward()

    SimpleTrainer.__init__ = init
    SimpleTrainer._data_loader_iter = property(data_loader_iter)
    HookBase.after_backward = lambda self: None
    TrainerBase.after_backward = after_backward


def check_local_process_group() -> None:
    """Check that main's function, which needs running processes, is called where it exists."""
    from hiera_seg.compat import create_local_process_group

    asked: list[int] = []
    comm.create_local_process_group = asked.append
    create_local_process_group(2)
    assert asked == [2]


def make_dataset(folder: Path) -> None:
    from hiera_seg.data import register_hierarchical_dataset

    rng = np.random.default_rng(0)
    for kind, shape, limit in (("images", (48, 48, 3), 256), ("labels", (48, 48), 4)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index in range(3):
            values = rng.integers(0, limit, shape, np.uint8)
            cv2.imwrite(str(folder / kind / f"{index}.png"), values)
    register_hierarchical_dataset(
        "as_main",
        hierarchy={"flat": ["road", "pavement"], "vehicle": ["car", "truck"]},
        image_root=str(folder / "images"),
        sem_seg_root=str(folder / "labels"),
    )


OPTIONS = [
    "MODEL.DEVICE", "cpu",
    "MODEL.CHANNELS_LAST", "False",
    "DATASETS.TRAIN", "('as_main',)",
    "DATASETS.TEST", "('as_main',)",
    "INPUT.MIN_SIZE_TRAIN", "(48,)",
    "INPUT.CROP.SIZE", "[32, 32]",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.WARMUP_ITERS", "0",
    "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip


def main(folder: Path) -> None:
    if not hasattr(comm, "create_local_process_group"):
        simulate_main()

    from hiera_seg.cli import load_config
    from hiera_seg.engine import HieraTrainer
    from hiera_seg.inference import HieraPredictor
    from projects.LazyHSSN.lazy_training import load_lazy_config, train_lazily

    make_dataset(folder)

    class CountsBackward(HookBase):
        count = 0

        def after_backward(self) -> None:
            self.count += 1

    repository = Path(__file__).resolve().parents[2]
    config = str(repository / "configs" / "Generated" / "hssn_deeplab_v3_plus_r18.yaml")
    run = folder / "run"
    run.mkdir()
    for steps in (2, 3):
        cfg = load_config(config, [*OPTIONS, "OUTPUT_DIR", str(run), "SOLVER.MAX_ITER", str(steps)])
        cfg.freeze()
        trainer = HieraTrainer(cfg)
        counter = CountsBackward()
        trainer._trainer.register_hooks([counter])
        trainer.resume_or_load(resume=True)
        results = trainer.train()["sem_seg"]
        assert counter.count == (2 if steps == 2 else 1), counter.count
    assert {"mIoU", "mIoU_level_0", "consistency"} <= results.keys()

    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(run / "model_final.pth")
    assert HieraTrainer.evaluate(cfg)["sem_seg"].keys() == results.keys()
    found = HieraPredictor(cfg)(str(folder / "images" / "0.png"))
    assert found["labels"].shape == (48, 48)

    lazy = load_lazy_config(
        str(repository / "projects/LazyHSSN/configs/generated_deeplab_v3_plus_r18.py"),
        [
            "datasets.train=as_main", "datasets.test=as_main", "train.device=cpu",
            f"hierarchy.source={folder / 'tree.yaml'}", "train.max_iter=1",
            f"train.output_dir={folder / 'lazy'}", "dataloader.train.total_batch_size=2",
            "dataloader.train.num_workers=0", "dataloader.test.num_workers=0",
        ],
    )  # fmt: skip
    (folder / "lazy").mkdir()
    trainer.model.hierarchy.to_yaml(folder / "tree.yaml")
    assert train_lazily(lazy)["sem_seg"].keys() >= {"mIoU"}
    check_local_process_group()
    print("all of it works")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
