"""Training by config: DefaultTrainer on any device, with runs that resume exactly."""

import importlib.util
import logging
import os
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, TrainerBase, default_writers
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hiera_seg.config import ConfigError, resolve_hierarchy
from hiera_seg.data import HieraDatasetMapper, build_hiera_train_loader
from hiera_seg.data.catalog import require_registered
from hiera_seg.engine.checkpoint import HieraCheckpointer
from hiera_seg.engine.optimizer import build_optimizer
from hiera_seg.engine.randomness import get_random_state, set_random_state
from hiera_seg.engine.schedule import build_lr_scheduler
from hiera_seg.engine.step import HieraTrainStep
from hiera_seg.evaluation import HieraSemSegEvaluator
from hiera_seg.inference import HieraSegmentorWithTTA

logger = logging.getLogger(__name__)


class ResumableLoader:
    """The training stream of a config, started where training starts.

    The iterations to skip are known only after the checkpoint has been read, so the workers are
    started at the first batch asked for.

    Attributes:
        seed: what the order of the data and all augmentations follow from.
        start_iter: the iteration whose batch comes first.
    """

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg
        self.seed = cfg.SEED
        self.start_iter = 0

    def __iter__(self) -> Iterator[list[dict]]:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SEED = self.seed
        yield from build_hiera_train_loader(cfg, start_iter=self.start_iter)


class HieraTrainer(DefaultTrainer):
    """Detectron2's DefaultTrainer for hierarchical segmentation.

    What differs: it runs on CPU, in one process or many; its checkpoints hold the optimizer, the
    seed and the random state, so that a resumed run equals an uninterrupted one; it knows AdamW
    and the "poly" schedule, and uses this package's mapper, loader and evaluator.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: what :func:`hiera_seg.engine.setup` gives: SEED is at least 0.
        """
        require_registered(cfg.DATASETS.TEST, "DATASETS.TEST")  # now, not after hours of training
        TrainerBase.__init__(self)  # DefaultTrainer's own would build DDP for GPUs only
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        model = distribute(model)
        self._trainer = HieraTrainStep(
            model,
            self.build_train_loader(cfg),
            optimizer,
            device_type=torch.device(cfg.MODEL.DEVICE).type,
            precision=autocast_precision(cfg),
            seed=cfg.SEED,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = HieraCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint of OUTPUT_DIR, or load MODEL.WEIGHTS.

        Args:
            resume: whether to look for a checkpoint; without one MODEL.WEIGHTS are loaded.
        """
        super().resume_or_load(resume=resume)
        if self.start_iter > 0:
            # the checkpoint holds rates of the schedule it was trained under
            rates = self.scheduler.get_lr()
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        if isinstance(self.data_loader, ResumableLoader):
            self.data_loader.start_iter = self.start_iter
            self.data_loader.seed = self._trainer.seed

    def train(self) -> dict | None:
        """Train to SOLVER.MAX_ITER.

        Returns:
            The last evaluation's results; None where there was none.
        """
        super().train()  # checks TEST.EXPECTED_RESULTS
        return getattr(self, "_last_eval_results", None)

    @classmethod
    def evaluate(cls, cfg: CfgNode, resume: bool = False) -> dict:
        """Evaluate a checkpoint on DATASETS.TEST and check TEST.EXPECTED_RESULTS.

        Args:
            cfg: see the constructor.
            resume: take the last checkpoint of OUTPUT_DIR instead of MODEL.WEIGHTS.
        """
        model = cls.build_model(cfg)
        checkpointer = HieraCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        results = cls.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | list[DatasetEvaluator] | None = None,
    ) -> dict:
        """Evaluate a model on DATASETS.TEST, by test-time augmentation where TEST.AUG says so.

        Args:
            cfg: see the constructor.
            model: with its weights, wrapped for several processes or not.
            evaluators: default: :meth:`build_evaluator` of each dataset.
        """
        if cfg.TEST.AUG.ENABLED:
            plain = model.module if isinstance(model, DistributedDataParallel) else model
            model = HieraSegmentorWithTTA(cfg, plain)
        return super().test(cfg, model, evaluators)

    def state_dict(self) -> dict[str, Any]:
        state = TrainerBase.state_dict(self)
        state["_trainer"] = self._trainer.state_dict()
        state["seed"] = self._trainer.seed
        state["random_state"] = get_random_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state)
        self._trainer.load_state_dict(state["_trainer"])
        if state["seed"] != self._trainer.seed:
            logger.info(f"Going on with SEED {state['seed']}, which this run was started with")
            self._trainer.seed = state["seed"]
        set_random_state(state["random_state"])

    def build_writers(self) -> list[EventWriter]:
        if importlib.util.find_spec("tensorboard") is not None:
            return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)
        logger.info("tensorboard is not installed: writing metrics.json and the log only")
        metrics_file = os.path.join(self.cfg.OUTPUT_DIR, "metrics.json")
        return [CommonMetricPrinter(self.max_iter), JSONWriter(metrics_file)]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        try:
            return super().build_model(cfg)
        except KeyError as error:  # what Detectron2's registries raise
            if "registry" not in str(error):
                raise
            raise ConfigError(
                f"the config names a part that is not there: {error.args[0]}"
            ) from error

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> ResumableLoader:
        return ResumableLoader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> torch.utils.data.DataLoader:
        require_registered([dataset_name], "DATASETS.TEST")
        # test-time augmentation resizes the original itself
        options = {"augmentations": []} if cfg.TEST.AUG.ENABLED else {}
        mapper = HieraDatasetMapper(cfg, False, **options)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        folder = cfg.OUTPUT_DIR
        if len(cfg.DATASETS.TEST) > 1:  # or the sets would overwrite each other's files
            folder = f"{folder}/inference/{dataset_name}"
        return HieraSemSegEvaluator(
            dataset_name, output_dir=folder, hierarchy=resolve_hierarchy(cfg)
        )


def autocast_precision(cfg: CfgNode) -> torch.dtype | None:
    """The half precision that SOLVER.AMP asks for on MODEL.DEVICE; None without AMP.

    Raises:
        ConfigError: an unknown PRECISION, or float16 on a CPU, where gradients are not scaled.
    """
    name = cfg.SOLVER.AMP.PRECISION
    on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda"
    if name not in ("auto", "bfloat16", "float16"):
        raise ConfigError(
            f'SOLVER.AMP.PRECISION is "{name}": choose "auto", "bfloat16" or "float16"'
        )
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if name == "float16" and not on_gpu:
        raise ConfigError('SOLVER.AMP.PRECISION "float16" needs a GPU: take "bfloat16" on a CPU')
    if name == "auto":
        name = "float16" if on_gpu else "bfloat16"
    return getattr(torch, name)


def distribute(model: nn.Module) -> nn.Module:
    """Wrap a model for gradient averaging where there are several processes."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    device_ids = [comm.get_local_rank()] if on_gpu else None
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)
