"""Measure a trained network: compute every number of a result that comes from test images."""

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from scipy.ndimage import maximum_filter

from hiera_seg.data.labels import LabelReader
from hiera_seg.evaluation import ImageCounts
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.scores import DECODE_VARIANTS, SCORE_VARIANTS
from hiera_seg.metrics import (
    CalibrationCounts,
    PathCounts,
    hierarchy_scores,
    level_calibrations,
    mean_iou,
    resample_weights,
    resampled_iou,
)
from hiera_seg.modeling import HieraSegmentor

NUM_RESAMPLES = 500
BOUNDARY_WIDTH = 5  # pixels on either side of where the class changes
# Decode variants of a trained arm in addition to its own.
OTHER_VARIANTS = {
    "path_sum": ("path_product", "leaf"),
    "level_softmax": ("joint_softmax", "leaf"),
    "joint_softmax": ("path_sum", "level_softmax", "leaf"),
    "marginal": ("marginal_path_sum",),
    "marginal_path_sum": ("marginal",),
}


@torch.no_grad()
def measure(model: HieraSegmentor, loader: Iterable, dataset: str) -> dict[str, Any]:
    """Score a network on a dataset.

    Args:
        model: in eval mode.
        loader: batches of test inputs, each with "sem_seg_file_name".
        dataset: the registered dataset of the loader; its tree is the model's.

    Returns:
        Plain data: "metrics" (per level, coarse to fine, in percent), "variants" (mIoU per level
        by decoding variant), "confusion" (leaves, rows predicted), "boundary" (per level [right,
        all] pixels near a change of class and away from it), "bootstrap" (mIoU per level under
        resamples of the images that are the same in every run), "images", "seconds" of CPU time.
    """
    reader = LabelReader.from_metadata(MetadataCatalog.get(dataset))
    tree = model.hierarchy
    assert reader.hierarchy == tree, "study: the model has another tree than its dataset"
    model_variant = model.decode_options.variant
    queries = model.sem_seg_head.output_kind == "scores"
    others = SCORE_VARIANTS if queries else OTHER_VARIANTS[model_variant]
    variants = tuple(dict.fromkeys((model_variant, *others)))
    assert set(variants) <= set(DECODE_VARIANTS)
    counts = {variant: PathCounts(tree, reader.ignore_label) for variant in variants}
    calibration = CalibrationCounts(tree)
    boundary = np.zeros((tree.num_levels, 2, 2), np.int64)
    leaves = tree.num_leaves
    images = []
    start = time.process_time()
    for batch in loader:
        for x, view in zip(batch, model.node_views([x["image"] for x in batch]), strict=True):
            truth = reader(x["sem_seg_file_name"])
            for variant in variants:
                own = variant == model_variant
                options = dataclasses.replace(
                    model.decode_options, variant=variant, output="labels", direct=own,
                    confidence=own, greedy_path=False,
                )  # fmt: skip
                found = model.decode([view], truth.shape, options)
                labels = found["hiera_labels"][-1].numpy()
                if not own:
                    counts[variant].add(labels, truth)
                    continue
                direct = [level.numpy() for level in found["hiera_labels_direct"]]
                # Numbers as names keep the order of the loader, which older results resampled.
                images.append((f"{len(images):06}", counts[variant].add(labels, truth, direct)))
                scores = [level.numpy() for level in found["hiera_confidence"]]
                calibration.add(labels, scores, truth)
                boundary += count_near_boundary(labels, truth, tree)
    seconds = time.process_time() - start
    scores = {variant: hierarchy_scores(of) for variant, of in counts.items()}
    own = scores[model_variant]
    return {
        "metrics": {
            "mIoU": percent(level.miou for level in own.merged),
            "mIoU_direct": percent(level.miou for level in own.direct),
            "accuracy": percent(level.pacc for level in own.merged),
            "consistency": percent([own.consistency])[0],
            "tree_distance": round(own.tree_distance, 5),
            "mistake_severity": round(own.mistake_severity, 5),
            "ece": percent(level.ece for level in level_calibrations(calibration)),
        },
        "variants": {v: percent(level.miou for level in of.merged) for v, of in scores.items()},
        "variant": model_variant,
        "confusion": counts[model_variant].nodes.matrix[:leaves, :leaves].tolist(),
        "boundary": boundary.tolist(),
        "bootstrap": bootstrap(ImageCounts.of(dataset, tree, images)),
        "images": len(images),
        "test_seconds": round(seconds, 1),
    }


def count_near_boundary(labels: np.ndarray, truth: np.ndarray, tree: Hierarchy) -> np.ndarray:
    """Count right pixels near to and away from changes of the true class.

    Args:
        labels: integers (H, W), predicted leaves.
        truth: integers (H, W), true nodes; void is any value outside [0, N).
        tree: the tree.

    Returns:
        int64 (levels, 2, 2): [level, near | away, right | all].
    """
    known = (truth >= 0) & (truth < tree.num_nodes)
    changes = np.zeros(truth.shape, bool)
    for axis in (0, 1):
        first = [slice(None)] * 2
        second = [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        first, second = tuple(first), tuple(second)
        differ = (truth[first] != truth[second]) & known[first] & known[second]
        changes[first] |= differ
        changes[second] |= differ
    near = maximum_filter(changes, 2 * BOUNDARY_WIDTH - 1)
    result = np.zeros((tree.num_levels, 2, 2), np.int64)
    for level, ancestor in enumerate(tree.level_ancestor):
        reaches = known & (ancestor[np.where(known, truth, 0)] >= 0)
        right = reaches & (ancestor[labels] == ancestor[np.where(known, truth, 0)])
        for place, where in enumerate((near, ~near)):
            result[level, place] = (right & where).sum(), (reaches & where).sum()
    return result


def bootstrap(images: ImageCounts) -> list[list[float]]:
    """Return `NUM_RESAMPLES` percentages per level: the merged mIoU of resamples of the images.

    The resamples depend on the number of images alone, so that runs on one dataset can be
    compared resample by resample.
    """
    weights = resample_weights(len(images.images), NUM_RESAMPLES)
    levels = range(images.hierarchy.num_levels)
    iou = [resampled_iou(weights, images.class_totals(level)) for level in levels]
    return [percent(mean_iou(values, np.ones(values.shape[1], bool))) for values in iou]


def percent(fractions: Iterable[float]) -> list[float]:
    """Convert to percentages with three decimals."""
    return [round(100 * float(value), 3) for value in fractions]
