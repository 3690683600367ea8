"""Train, resume, evaluate and predict with a Detectron2 that differs from 0.6 as its main does.

    python tests/engine/as_detectron2_main.py FOLDER

Each function below puts one difference that hiera_seg.compat lists into the installed Detectron2,
before hiera_seg is imported. What else main has (new models, new keys) is not touched here.
"""

import dataclasses
import inspect
import sys
from pathlib import Path

import cv2
import numpy as np


def shape_spec_is_a_dataclass() -> None:
    import detectron2.layers

    fields = [(name, object, None) for name in ("channels", "height", "width", "stride")]
    cls = dataclasses.make_dataclass("ShapeSpec", fields)
    cls.__module__ = "detectron2.layers.shape_spec"  # where instantiate looks for it
    detectron2.layers.shape_spec.ShapeSpec = detectron2.layers.ShapeSpec = cls


def trainers_have_after_backward_and_periods() -> None:
    from detectron2.engine import HookBase, SimpleTrainer, TrainerBase

    def init(self, model, data_loader, optimizer, gather_metric_period=1,
             zero_grad_before_forward=False, async_write_metrics=False):  # fmt: skip
        TrainerBase.__init__(self)
        model.train()
        self.model, self.data_loader, self.optimizer = model, data_loader, optimizer
        self._data_loader_iter_obj = None
        self.gather_metric_period = gather_metric_period

    def data_loader_iter(self):
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def write_metrics(loss_dict, data_time, cur_iter, prefix=""):
        raise AssertionError("hiera_seg writes its own")

    def after_backward(self):
        for hook in self._hooks:
            hook.after_backward()

    SimpleTrainer.__init__ = init
    SimpleTrainer._data_loader_iter = property(data_loader_iter)
    SimpleTrainer.write_metrics = staticmethod(write_metrics)
    HookBase.after_backward = lambda self: None
    TrainerBase.after_backward = after_backward


def checkpointers_parse_addresses() -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    def load_file(self, filename):
        raise AssertionError("main reads files with pickle")

    def load(self, path, *args, **kwargs):
        raise AssertionError("main parses the address before it reads, with a state of its own")

    init = DetectionCheckpointer.__init__

    def new_init(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._parsed_url_during_load = None

    DetectionCheckpointer.__init__ = new_init
    DetectionCheckpointer.load = load
    DetectionCheckpointer._load_file = load_file


def image_lists_take_constraints() -> None:
    from detectron2.structures import ImageList

    old = ImageList.from_tensors

    def from_tensors(tensors, size_divisibility=0, pad_value=0.0, padding_constraints=None):
        return old(tensors, size_divisibility, pad_value)

    ImageList.from_tensors = staticmethod(from_tensors)


def evaluations_may_leave_out_the_last() -> None:
    from detectron2.engine import hooks

    old = hooks.EvalHook.__init__

    def init(self, eval_period, eval_function, eval_after_train=True):
        old(self, eval_period, eval_function)
        self._eval_after_train = eval_after_train

    hooks.EvalHook.__init__ = init


def process_groups_are_made_by_a_function() -> list[int]:
    from detectron2.utils import comm

    asked: list[int] = []
    comm.create_local_process_group = asked.append
    return asked


def loaders_have_more_options() -> None:
    import detectron2.data
    from detectron2.data import build

    old = build.build_detection_test_loader.__wrapped__

    def build_detection_test_loader(
        dataset, *, mapper, sampler=None, batch_size=1, num_workers=0, collate_fn=None
    ):
        arguments = {"mapper": mapper, "num_workers": num_workers, "batch_size": batch_size}
        known = inspect.signature(old).parameters
        return old(dataset, **{k: v for k, v in arguments.items() if k in known})

    wrapped = build.configurable(from_config=build._test_loader_from_config)(
        build_detection_test_loader
    )
    build.build_detection_test_loader = wrapped
    detectron2.data.build_detection_test_loader = wrapped


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
    shape_spec_is_a_dataclass()
    trainers_have_after_backward_and_periods()
    checkpointers_parse_addresses()
    image_lists_take_constraints()
    evaluations_may_leave_out_the_last()
    loaders_have_more_options()
    asked = process_groups_are_made_by_a_function()

    from detectron2.engine import HookBase

    from hiera_seg.compat import create_local_process_group
    from hiera_seg.engine import HieraTrainer, load_config
    from hiera_seg.engine.lazy import load_lazy_config, train_lazily
    from hiera_seg.inference import HieraPredictor

    make_dataset(folder)
    create_local_process_group(2)
    assert asked == [2]

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
    print("all of it works")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
