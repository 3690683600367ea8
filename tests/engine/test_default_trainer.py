"""The way of an existing Detectron2 project: config, mapper and evaluator added to its own code."""

import numpy as np
import torch
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import DatasetEvaluators, SemSegEvaluator

from hiera_seg.data import HieraDatasetMapper
from hiera_seg.evaluation import HieraSemSegEvaluator


class UsersTrainer(DefaultTrainer):
    """Nothing of hiera_seg.engine in it."""

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=HieraDatasetMapper(cfg, True))

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return DatasetEvaluators(
            [
                SemSegEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR),
                HieraSemSegEvaluator(dataset_name, task="hiera_sem_seg"),
            ]
        )


def test_a_plain_default_trainer_trains_and_evaluates_three_images(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    cfg.SOLVER.STEPS = (50,)
    cfg.SOLVER.MAX_ITER = 60
    cfg.INPUT.COLOR_AUG_SSD = False
    cfg.SOLVER.IMS_PER_BATCH = 3
    torch.manual_seed(0)
    np.random.seed(0)  # Detectron2's sampler draws its seed from it
    trainer = UsersTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = trainer._last_eval_results

    stock, ours = results["sem_seg"], results["hiera_sem_seg"]
    # every leaf occurs in the set, so Detectron2's numbers and ours mean the same
    for key in ("mIoU", "fwIoU", "mACC", "pACC", "IoU-road", "ACC-truck"):
        assert abs(stock[key] - ours[key]) < 1e-9, key
    assert ours["mIoU_group"] >= 60, "three images of four plain colours can be learnt"

    cfg.MODEL.WEIGHTS = f"{cfg.OUTPUT_DIR}/model_final.pth"
    output = DefaultPredictor(cfg)(torch.full((37, 41, 3), 127, dtype=torch.uint8).numpy())
    assert output["sem_seg"].shape == (4, 37, 41)
    assert [tuple(labels.shape) for labels in output["hiera_labels"]] == [(37, 41)] * 2
