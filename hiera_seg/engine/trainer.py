"""Train by a config: DefaultTrainer on any device, with runs that resume exactly."""

import logging
import os
import weakref
from collections.abc import Collection
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, PreciseBN
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from hiera_seg.checkpoint import HieraCheckpointer
from hiera_seg.config import check_config, resolve_hierarchy
from hiera_seg.data import HieraDatasetMapper
from hiera_seg.data.catalog import require_registered
from hiera_seg.data.dataset_check import warn_of_absent_leaves
from hiera_seg.data.loader import ResumableLoader, build_hiera_test_loader
from hiera_seg.data.records import iterate_records
from hiera_seg.engine.distributed import UnusedParameters, distribute, share_buffers
from hiera_seg.engine.elastic import should_resume
from hiera_seg.engine.ema import WeightAverage
from hiera_seg.engine.hooks import (
    BestWeights,
    EarlyStopping,
    Evaluation,
    WeightsFile,
    check_metrics,
)
from hiera_seg.engine.optimizer import build_optimizer
from hiera_seg.engine.precision import autocast_precision
from hiera_seg.engine.randomness import get_random_state, set_random_state, with_seed
from hiera_seg.engine.schedule import build_lr_scheduler
from hiera_seg.engine.step import HieraTrainStep, plain_model
from hiera_seg.engine.trackers import TRACKERS, Tracker
from hiera_seg.engine.validation import check_can_validate, validation_losses
from hiera_seg.engine.writers import build_writers, log_summary
from hiera_seg.evaluation import HieraSemSegEvaluator, build_hiera_evaluator
from hiera_seg.inference import HieraSegmentorWithTTA, build_for_eval
from hiera_seg.report.panels import BatchPanels, show_test_images
from hiera_seg.report.run import check_reports, report_evaluation

logger = logging.getLogger(__name__)


class _Stop(BaseException):
    """Leave the training loop, after ``args[0]`` iterations.

    Not an Exception, which Detectron2 would log as an error.
    """


class HieraTrainer(DefaultTrainer):
    """Detectron2's DefaultTrainer for hierarchical segmentation.

    In addition it runs on CPU, in one process or many; its checkpoints hold the optimizer, the
    seed and the random state, and a resumed run equals an uninterrupted one; it supports AdamW
    and the "poly" schedule, and uses this package's mapper, loader and evaluator.

    Args:
        cfg: as returned by :func:`hiera_seg.cli.setup`. A SEED below 0 is replaced by a drawn one.

    Raises:
        ConfigError: a key has an impossible value.
        DatasetError: a file of a test set is missing.
    """

    def __init__(self, cfg: CfgNode):
        # Check everything that the first evaluation needs now, not after hours of training
        require_registered(cfg.DATASETS.TEST, "DATASETS.TEST")
        check_reports(cfg)
        TrainerBase.__init__(self)  # that of DefaultTrainer supports DDP on GPUs only
        cfg = with_seed(self.auto_scale_workers(cfg, comm.get_world_size()))
        check_config(cfg)
        evaluators = self._check_test_sets(cfg)
        if cfg.TEST.BEST_CHECKPOINT.METRIC or cfg.TEST.EARLY_STOPPING.METRIC:
            check_metrics(cfg, evaluators)
        self.cfg = cfg
        self.start_iter = 0
        self._trackers: list[Tracker] = []  # of the main process
        self._start_position = 0  # in the training stream, of iteration start_iter
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.stop_reason: str | None = None

        model = self.build_model(cfg)
        if cfg.TEST.VALIDATION_LOSS:
            check_can_validate(model)
        if cfg.TEST.AUG.ENABLED and cfg.DATASETS.TEST:
            HieraSegmentorWithTTA(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        average = WeightAverage(model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        model = distribute(model)
        self._trainer = HieraTrainStep(
            model,
            self.build_train_loader(cfg),
            optimizer,
            device_type=torch.device(cfg.MODEL.DEVICE).type,
            precision=autocast_precision(cfg),
            seed=cfg.SEED,
            accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
            average=average,
            dump_folder=cfg.OUTPUT_DIR,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        stored = {"trainer": weakref.proxy(self)}
        if average is not None:
            stored["ema"] = average
        self.checkpointer = HieraCheckpointer(
            model, cfg.OUTPUT_DIR, map_classes=cfg.MODEL.HIERA_SEG.MAP_CLASSES, **stored
        )
        self.register_hooks(self.build_hooks())
        if comm.get_world_size() > 1:
            self.register_hooks([UnusedParameters()])
        log_summary(cfg, model)

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint of OUTPUT_DIR, or load MODEL.WEIGHTS.

        Args:
            resume: whether to look for a checkpoint; without one MODEL.WEIGHTS are loaded. A job
                whose processes torchrun has restarted always resumes from its own checkpoint.
        """
        super().resume_or_load(resume=should_resume(self.checkpointer, resume))
        if self.start_iter > 0:
            # The learning rates in the checkpoint are of the schedule that it was trained with
            rates = self.scheduler.get_lr()
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        streams = [(self.data_loader, self._start_position)]
        for hook in self._hooks:
            if isinstance(hook, PreciseBN) and not hook._disabled:
                times = self.start_iter // hook._period if hook._period > 0 else 0
                used = times * hook._num_iter * self.cfg.SOLVER.IMS_PER_BATCH
                streams.append((hook._data_loader, used))
        for stream, position in streams:
            if isinstance(stream, ResumableLoader):
                stream.start_position, stream.seed = position, self._trainer.seed

    def train(self) -> dict | None:
        """Train to SOLVER.MAX_ITER, or until TEST.EARLY_STOPPING stops the run.

        Returns:
            The results of the last evaluation; None if there was none.
        """
        if self.start_iter == 0 and comm.is_main_process():
            for name in self.cfg.DATASETS.TEST:
                warn_of_absent_leaves(name, resolve_hierarchy(self.cfg), self.cfg.INPUT.EXIF)
        average = self._trainer.average
        if average is not None:
            average.start(plain_model(self.model))
        if self.start_iter >= self.max_iter:
            logger.info(
                f"Nothing to train: {self.start_iter} iterations are done and SOLVER.MAX_ITER is "
                f"{self.max_iter}; evaluating the last checkpoint"
            )
        try:
            TrainerBase.train(self, self.start_iter, self.max_iter)
        except _Stop as stop:
            done = stop.args[0]
            logger.info(f"Training stops after {done} iterations: {self.stop_reason}")
            self.iter = done - 1
            last = os.path.basename(self.checkpointer.get_checkpoint_file())
            if done > self.start_iter or last != "model_final.pth":
                self.checkpointer.save("model_final", iteration=self.iter)
        if average is not None:
            WeightsFile(average.model, self.cfg.OUTPUT_DIR).save("model_ema")
        results = getattr(self, "_last_eval_results", None)
        if self.cfg.TEST.EXPECTED_RESULTS and results is not None and comm.is_main_process():
            verify_results(self.cfg, results)
        return results

    def before_train(self) -> None:
        for tracker in self._trackers:
            tracker.open(resume=self.start_iter > 0)
        super().before_train()
        if self.stop_reason:  # a resumed run that had stopped early
            raise _Stop(self.start_iter)

    def after_step(self) -> None:
        super().after_step()
        if self.stop_reason:
            raise _Stop(self.iter + 1)

    def build_hooks(self) -> list[HookBase]:
        """Build Detectron2's hooks, with an evaluation that keeps the best weights and may stop."""
        test, folder = self.cfg.TEST, self.cfg.OUTPUT_DIR
        evaluation, keys = Evaluation(test.EVAL_PERIOD, folder), test.BEST_CHECKPOINT
        if keys.METRIC:
            evaluation.best = BestWeights(folder, keys.METRIC, keys.MODE)
        keys = test.EARLY_STOPPING
        if keys.METRIC:
            evaluation.stopping = EarlyStopping(keys.METRIC, keys.MODE, keys.PATIENCE)
        hooks = super().build_hooks()
        hooks = [evaluation if isinstance(hook, EvalHook) else hook for hook in hooks]
        if comm.is_main_process() and self.cfg.VIS_PERIOD > 0:
            panels = BatchPanels(self.cfg, plain_model(self.model))
            hooks.insert(-1, panels)  # before the last hook, which writes
        return hooks

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is evaluated: with averaged weights if SOLVER.EMA is enabled."""
        average = self._trainer.average
        return plain_model(self.model) if average is None else average.model

    def run_evaluation(self) -> dict:
        """Evaluate on DATASETS.TEST, and compute the losses there if TEST.VALIDATION_LOSS is set.

        Returns:
            The results of :meth:`test`, with the losses in addition to "sem_seg".
        """
        names = self.cfg.DATASETS.TEST
        model = self.model if self._trainer.average is None else self.evaluated_model
        results = self._last_eval_results = self.test(self.cfg, model)
        if not self.cfg.TEST.VALIDATION_LOSS:
            return results
        model, seed = self.evaluated_model, self._trainer.seed
        losses = {x: validation_losses(self.cfg, model, x, seed=seed) for x in names}
        if len(names) == 1:
            return {**results, **losses[names[0]]}
        return {x: {**results[x], **losses[x]} for x in names}

    @classmethod
    def evaluate(
        cls, cfg: CfgNode, resume: bool = False, opts: Collection[str] | None = None
    ) -> dict:
        """Evaluate a checkpoint on DATASETS.TEST and check TEST.EXPECTED_RESULTS.

        Args:
            cfg: see the constructor.
            resume: use the last checkpoint of OUTPUT_DIR even if MODEL.WEIGHTS is set.
            opts: keys and values of the command line. If given, MODEL.WEIGHTS takes precedence
                over the last checkpoint of OUTPUT_DIR only if it is among them.

        Raises:
            ConfigError, CheckpointError: see :func:`~hiera_seg.inference.build_for_eval`.
                :meth:`test` does not check the weights.
        """
        require_registered(cfg.DATASETS.TEST, "DATASETS.TEST", some=True)
        check_reports(cfg)
        cls._check_test_sets(cfg)
        log_summary(cfg)
        model, _ = build_for_eval(cfg, opts, resume=resume, build=cls.build_model)
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
        """Evaluate a model on DATASETS.TEST, with test-time augmentation if TEST.AUG is enabled.

        Args:
            cfg: see the constructor.
            model: with its weights, wrapped for several processes or not.
            evaluators: default: those of :meth:`build_evaluator`.

        Returns:
            The results of the evaluators; for several datasets, by dataset name.
        """
        share_buffers(model)
        plain = plain_model(model)
        if cfg.TEST.AUG.ENABLED:
            model = HieraSegmentorWithTTA(cfg, plain)
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            show_test_images(cfg, plain)
            if cfg.TEST.REPORT and evaluators is None:
                report_evaluation(cfg, plain, results)
        return results

    @classmethod
    def _check_test_sets(cls, cfg: CfgNode) -> dict[str, DatasetEvaluator]:
        """Build the evaluator of each test set; raise DatasetError for files that are missing."""
        own_loader = cls.build_test_loader.__func__ is HieraTrainer.build_test_loader.__func__
        evaluators = {name: cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST}
        for evaluator in evaluators.values():
            if isinstance(evaluator, HieraSemSegEvaluator):
                evaluator.check_files(images=own_loader)
        return evaluators

    def state_dict(self) -> dict[str, Any]:
        state = TrainerBase.state_dict(self)
        state["_trainer"] = self._trainer.state_dict()
        state["seed"] = self._trainer.seed
        done = self.iter + 1 - self.start_iter
        state["position"] = self._start_position + done * self.cfg.SOLVER.IMS_PER_BATCH
        state["random_state"] = get_random_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state)
        self._trainer.load_state_dict(state["_trainer"])
        if state["seed"] != self._trainer.seed:
            logger.info(f"Continuing with SEED {state['seed']}, with which this run was started")
            self._trainer.seed = state["seed"]
            for model in (plain_model(self.model), self.evaluated_model):
                head = getattr(model, "sem_seg_head", None)
                if getattr(head, "seed", None) is not None:
                    head.seed = state["seed"]
        # Checkpoints of earlier versions have no position; their batch size was constant
        position = (self.iter + 1) * self.cfg.SOLVER.IMS_PER_BATCH
        self._start_position = state.get("position", position)
        set_random_state(state["random_state"])

    def build_writers(self) -> list[EventWriter]:
        self._trackers = [
            kind(self.cfg) for name, kind in TRACKERS.items() if name in self.cfg.LOGGERS
        ]
        return build_writers(
            self.cfg.OUTPUT_DIR,
            self.max_iter,
            self._trackers,
            tensorboard="tensorboard" in self.cfg.LOGGERS,
        )

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        check_config(cfg, "MODEL.")
        return super().build_model(cfg)

    build_optimizer = staticmethod(build_optimizer)
    build_lr_scheduler = staticmethod(build_lr_scheduler)
    build_evaluator = staticmethod(build_hiera_evaluator)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> ResumableLoader:
        return ResumableLoader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> torch.utils.data.DataLoader:
        require_registered([dataset_name], "DATASETS.TEST")
        # HieraSegmentorWithTTA resizes the original image
        options = {"augmentations": []} if cfg.TEST.AUG.ENABLED else {}
        return build_hiera_test_loader(
            iterate_records([dataset_name]),
            HieraDatasetMapper(cfg, False, **options),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
