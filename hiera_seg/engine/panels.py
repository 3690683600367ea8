"""Pictures for tensorboard: images with their labels at every level."""

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage
from torch import nn

from hiera_seg.engine.step import plain_model
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.modeling import HieraSegmentor, evaluation_mode
from hiera_seg.modeling.heads.loss import training_iteration
from hiera_seg.report.run import SamplePredictor, spread_over

if TYPE_CHECKING:  # drawing needs OpenCV, which training does without
    from hiera_seg.report.images import ReportImage

logger = logging.getLogger(__name__)

# A panel's width: with its levels beside each other a strip stays small enough to flip through.
PANEL_WIDTH = 360


def show_test_images(cfg: CfgNode, model: nn.Module) -> None:
    """Put the same TEST.STRIP_IMAGES images of each test set into tensorboard, predicted now.

    Outside training, without tensorboard or OpenCV, or with a model that has no levels nothing
    happens.

    Args:
        cfg: of the run.
        model: what is evaluated.
    """
    num = cfg.TEST.STRIP_IMAGES
    if num < 1 or not _is_written() or not isinstance(model, HieraSegmentor):
        return
    for name in cfg.DATASETS.TEST:
        try:
            predict = SamplePredictor(cfg, model, name)
            for record in spread_over(name, num):
                stem = Path(record["file_name"]).stem
                _put(f"{name}/{stem}", strip(predict(record), model.hierarchy))
        except DatasetError as error:  # pictures are no reason to end a training
            logger.error(f"No picture of {name}: {error}")


def strip(sample: "ReportImage", hierarchy: Hierarchy) -> np.ndarray:
    """One picture of an image: predicted labels a level, and true ones below them.

    Returns:
        (h, w, 3) uint8, RGB.
    """
    import cv2

    from hiera_seg.visualization import cut_at_level, draw_levels

    height, width = sample.labels.shape
    size = (PANEL_WIDTH, max(1, round(height * PANEL_WIDTH / width)))

    def fit(labels: np.ndarray) -> np.ndarray:
        return cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)

    image = cv2.resize(np.ascontiguousarray(sample.image), size, interpolation=cv2.INTER_AREA)
    labels = fit(sample.labels)
    levels = [cut_at_level(labels, hierarchy, level, -1) for level in range(hierarchy.num_levels)]
    truth = None if sample.truth is None else fit(sample.truth)
    return draw_levels(image, levels, hierarchy, truth=truth, with_legend=False)


class BatchStrips(HookBase):
    """Puts the first sample of every VIS_PERIOD-th batch into tensorboard, as training sees it.

    Predictions are the model's in eval, before the step; training goes on as without it.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: with VIS_PERIOD of 1 or more.
        """
        self._period = cfg.VIS_PERIOD
        self._format = cfg.INPUT.FORMAT

    def before_step(self) -> None:
        model = plain_model(self.trainer.model)
        if (self.trainer.iter + 1) % self._period or not isinstance(model, HieraSegmentor):
            return
        if not _is_written():
            return

        def show(module: HieraSegmentor, inputs: tuple) -> None:
            handle.remove()  # once: also before the call below comes here
            sample = self._predict(module, inputs[0][0])
            _put(f"batch/{sample.name}", strip(sample, module.hierarchy))

        handle = model.register_forward_pre_hook(show)

    def _predict(self, model: HieraSegmentor, sample: dict[str, Any]) -> "ReportImage":
        from hiera_seg.report.images import ReportImage

        image = convert_image_to_rgb(sample["image"].permute(1, 2, 0).cpu().numpy(), self._format)
        with evaluation_mode(model):
            options = model.decode_options.labels_only()
            result = model.predict([sample["image"]], options)[0]
        return ReportImage(
            name=Path(sample.get("file_name", "image")).stem,
            image=image.astype(np.uint8),
            labels=result["hiera_labels"][-1].cpu().numpy(),
            truth=sample["sem_seg"].cpu().numpy(),
        )


def _is_written() -> bool:
    """Whether pictures can be drawn, and somebody takes them: they would pile up in memory."""
    needed = ("tensorboard", "cv2")
    return training_iteration() is not None and all(map(importlib.util.find_spec, needed))


def _put(name: str, picture: np.ndarray) -> None:
    tensor = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    get_event_storage().put_image(name, tensor)
