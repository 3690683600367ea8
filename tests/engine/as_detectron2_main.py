"""Train, resume, evaluate and predict with a Detectron2 that differs from 0.6 as its main does.

    python tests/engine/as_detectron2_main.py FOLDER

Where 0.6 is installed, ``simulate_main`` first patches it with those differences from main that
this package's code depends on. Where main is installed, the script runs it as it is.
"""

import dataclasses
import sys
from pathlib import Path

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


OPTIONS = [
    *("MODEL.DEVICE", "cpu", "MODEL.CHANNELS_LAST", "False", "DATALOADER.NUM_WORKERS", "0"),
    *("DATASETS.TRAIN", "('as_main',)", "DATASETS.TEST", "('as_main',)"),
    *("INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.CROP.SIZE", "[32, 32]"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "0"),
]


class CountsBackward(HookBase):
    count = 0

    def after_backward(self) -> None:
        self.count += 1


def main(folder: Path) -> None:
    if not hasattr(comm, "create_local_process_group"):
        simulate_main()

    from hiera_seg import Hierarchy
    from hiera_seg.cli import load_config
    from hiera_seg.compat import create_local_process_group
    from hiera_seg.data import register_hierarchical_dataset
    from hiera_seg.engine import HieraTrainer
    from hiera_seg.inference import HieraPredictor
    from projects.LazyHSSN.lazy_training import load_lazy_config, train_lazily
    from tests.helpers import CONFIGS, REPOSITORY, write_dataset

    tree = Hierarchy.from_dict({"flat": ["road", "pavement"], "vehicle": ["car", "truck"]})
    labels = np.random.default_rng(0).integers(0, 4, (3, 48, 48), np.uint8)
    register_hierarchical_dataset("as_main", hierarchy=tree, **write_dataset(folder, labels))

    (folder / "run").mkdir()
    config = str(CONFIGS / "Generated" / "hssn_deeplab_v3_plus_r18.yaml")
    for steps, done in ((2, 2), (3, 1)):  # the second resumes
        options = [*OPTIONS, "OUTPUT_DIR", str(folder / "run"), "SOLVER.MAX_ITER", str(steps)]
        cfg = load_config(config, options)
        trainer, counter = HieraTrainer(cfg), CountsBackward()
        trainer._trainer.register_hooks([counter])
        trainer.resume_or_load(resume=True)
        results = trainer.train()["sem_seg"]
        assert counter.count == done, counter.count
    assert {"mIoU", "mIoU_level_0", "consistency"} <= results.keys()

    cfg.MODEL.WEIGHTS = str(folder / "run" / "model_final.pth")
    assert HieraTrainer.evaluate(cfg)["sem_seg"].keys() == results.keys()
    found = HieraPredictor(cfg)(str(folder / "images" / "0.png"))
    assert found["labels"].shape == (48, 48)

    tree.to_yaml(folder / "tree.yaml")
    (folder / "lazy").mkdir()
    lazy = load_lazy_config(
        str(REPOSITORY / "projects/LazyHSSN/configs/generated_deeplab_v3_plus_r18.py"),
        [
            "datasets.train=as_main", "datasets.test=as_main", "train.device=cpu",
            f"hierarchy.source={folder / 'tree.yaml'}", "train.max_iter=1",
            f"train.output_dir={folder / 'lazy'}", "dataloader.train.total_batch_size=2",
            "dataloader.train.num_workers=0", "dataloader.test.num_workers=0",
        ],
    )  # fmt: skip
    assert train_lazily(lazy)["sem_seg"].keys() >= {"mIoU"}

    asked: list[int] = []
    comm.create_local_process_group = asked.append  # it needs processes: only whether it is called
    create_local_process_group(2)
    assert asked == [2]
    print("all of it works")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
