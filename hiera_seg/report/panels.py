"""Draw panels for LOGGERS: an image with its predicted and true labels at every level."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage
from torch import nn

from hiera_seg.config.checks import is_installed
from hiera_seg.data.bands import as_rgb
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.modeling import HieraSegmentor, evaluation_mode
from hiera_seg.modeling.heads.loss import training_iteration
from hiera_seg.report.images import ReportImage
from hiera_seg.report.run import SamplePredictor
from hiera_seg.report.samples import spread_over

logger = logging.getLogger(__name__)

IMAGE_WIDTH = 360  # pixels of each image in a panel


def show_test_images(cfg: CfgNode, model: nn.Module) -> None:
    """Predict TEST.STRIP_IMAGES images of each test set, always the same, for LOGGERS.

    Does nothing outside training, without a logger or OpenCV, or if the evaluated model is not a
    HieraSegmentor.
    """
    if cfg.TEST.STRIP_IMAGES < 1 or not _can_draw(cfg, model):
        return
    for name in cfg.DATASETS.TEST:
        try:
            predict = SamplePredictor(cfg, model, name)
            for record in spread_over(name, cfg.TEST.STRIP_IMAGES).values():
                stem = Path(record["file_name"]).stem
                _put_panel(f"{name}/{stem}", predict(record), model.hierarchy)
        except DatasetError as error:  # a missing panel should not stop a training
            logger.error(f"{name}: no images for LOGGERS: {error}")


class BatchPanels(HookBase):
    """Show the first sample of every VIS_PERIOD-th batch in LOGGERS, after augmentation.

    Labels are predicted in eval mode before the step, without changing the training.

    Args:
        cfg: config of the run.
        model: without a DistributedDataParallel wrapper.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module):
        self._cfg = cfg
        self._model = model

    def before_step(self) -> None:
        if (self.trainer.iter + 1) % self._cfg.VIS_PERIOD or not _can_draw(self._cfg, self._model):
            return

        def show(module: HieraSegmentor, inputs: tuple) -> None:
            handle.remove()  # before _predict calls the model again
            sample = self._predict(module, inputs[0][0])
            _put_panel(f"batch/{sample.name}", sample, module.hierarchy)

        handle = self._model.register_forward_pre_hook(show)

    def _predict(self, model: HieraSegmentor, sample: dict[str, Any]) -> ReportImage:
        image = sample["image"].permute(1, 2, 0).cpu().numpy()
        inputs = self._cfg.INPUT
        with evaluation_mode(model):
            options = model.decode_options.labels_only()
            result = model.predict([sample["image"]], options)[0]
        return ReportImage(
            name=Path(sample.get("file_name", "image")).stem,
            image=as_rgb(image, inputs.FORMAT, inputs.DISPLAY_BANDS),
            labels=result["hiera_labels"][-1].cpu().numpy(),
            truth=sample["sem_seg"].cpu().numpy(),
        )


def _can_draw(cfg: CfgNode, model: nn.Module) -> bool:
    """Return whether panels can be drawn, and a logger of the run takes them."""
    return (
        isinstance(model, HieraSegmentor)
        and training_iteration() is not None
        and any(map(is_installed, cfg.LOGGERS))
        and is_installed("cv2")
    )


def _put_panel(name: str, sample: ReportImage, hierarchy: Hierarchy) -> None:
    from hiera_seg.visualization import cut_at_levels, draw_levels  # needs OpenCV

    levels = cut_at_levels(sample.labels, hierarchy)
    panel = draw_levels(
        sample.image, levels, hierarchy, truth=sample.truth, with_legend=False, width=IMAGE_WIDTH
    )
    tensor = torch.from_numpy(np.ascontiguousarray(panel.transpose(2, 0, 1)))
    get_event_storage().put_image(name, tensor)
