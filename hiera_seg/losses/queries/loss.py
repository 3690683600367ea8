"""Match the queries of a mask transformer with segments and compute their losses."""

import logging
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.point_sampling import draw_points, draw_uncertain_points, sample_maps
from hiera_seg.losses.checks import check_labels
from hiera_seg.losses.fused.tiles import loss_dtype
from hiera_seg.losses.labels import label_index
from hiera_seg.losses.queries.classes import NO_OBJECT
from hiera_seg.losses.queries.masks import mask_bce, mask_costs, mask_dice, point_targets

logger = logging.getLogger(__name__)


class QueryLoss(nn.Module):
    """Class, mask and dice loss of queries matched with the segments of an image (Mask2Former).

    A segment is the set of all pixels of one label, a leaf or an inner node. Masks are compared at
    sampled points. Void is never sampled, and points whose label is an ancestor or descendant of
    the segment's are ignored (whether a pixel labelled "vehicle" belongs to "car" is unknown).
    """

    def __init__(
        self,
        classes: nn.Module,
        *,
        ignore_label: int,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
    ):
        """
        Args:
            classes: an instance of one of `QUERY_OPTIONS`.
            ignore_label: the value of void in labels.
            class_weight, mask_weight, dice_weight: factors of the losses and of the matching costs.
            no_object_weight: factor of the class loss of queries without a segment.
            num_points: number of points at which masks are compared.
            oversample_ratio, importance_ratio: see `draw_uncertain_points`.
        """
        super().__init__()
        self.classes = classes
        self.hierarchy: Hierarchy = classes.hierarchy
        self.ignore_label = ignore_label
        self.weights = {"class": class_weight, "mask": mask_weight, "dice": dice_weight}
        self.no_object_weight = no_object_weight
        self.num_points = num_points
        self.sampling = {
            "oversample_ratio": oversample_ratio,
            "importance_ratio": importance_ratio,
        }

    def segments(self, labels: Tensor) -> list[Tensor]:
        """Return the labels present in each image, in ascending order.

        Args:
            labels: (B, H, W) int64 node ids or the ignore label.

        Returns:
            For each image int64 (S,); empty if all of it is void.

        Raises:
            ValueError: a label that is neither a node id nor the ignore label (on CUDA a device
                assertion).
        """
        check_labels(labels)
        index = label_index(labels, self.hierarchy, self.ignore_label)
        return [present[present < self.hierarchy.num_nodes] for present in map(torch.unique, index)]

    def normalizers(self, segments: Sequence[Tensor], num_queries: int) -> Tensor:
        """Return the normalizers of the losses of these images.

        If they are summed over all processes and divided by their number, the mean of the
        processes' gradients is the gradient of one process with all images.

        Args:
            segments: as from :meth:`segments`.
            num_queries: queries per image.

        Returns:
            float32 (2,) on the CPU: number of matched masks, and of queries weighted as in the
            class loss.
        """
        matched = sum(min(len(present), num_queries) for present in segments)
        unmatched = num_queries * sum(len(present) > 0 for present in segments) - matched
        return torch.tensor([matched, matched + self.no_object_weight * unmatched]).float()

    def forward(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        labels: Tensor,
        *,
        normalizers: Tensor | None = None,
        segments: Sequence[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Match the queries of each layer and compute their losses.

        Args:
            class_logits: for each of A layers (B, Q, K) float.
            mask_logits: for each layer (B, Q, h, w) float, over the same area as the labels.
            labels: (B, H, W) int64 node ids or the ignore label; other integer types are converted.
            normalizers: as from :meth:`normalizers`; None for those of this batch.
            segments: as from :meth:`segments`, if they have been computed already.
            generator: source of random values, on the labels' device; None for PyTorch's own.

        Returns:
            {"class", "mask", "dice": (A,)}, weighted, float32 (float64 for float64 logits).
            Images that are entirely void are ignored, because the targets of their queries are
            unknown. If all images are void, the losses are zeros with a gradient path.
        """
        device_type, labels = labels.device.type, labels.long()
        with torch.autocast(device_type, enabled=False):  # half precision is computed in float32
            if segments is None:
                segments = self.segments(labels)
            num_queries = class_logits[0].shape[1]
            if normalizers is None:
                normalizers = self.normalizers(segments, num_queries)
            normalizers = normalizers.to(labels.device)
            # Not clamped at 1: the mean over many processes may be smaller
            num_masks, num_weighted = normalizers.where(normalizers > 0, 1.0)

            # Images that are entirely void are ignored
            known = [image for image, present in enumerate(segments) if len(present) > 0]
            class_logits = [x[known].to(loss_dtype(x)) for x in class_logits]
            targets = [
                torch.full(x.shape[:2], NO_OBJECT, device=x.device, dtype=torch.long)
                for x in class_logits
            ]
            # Sums of empty slices are zeros with a gradient path
            mask = torch.stack([x[:, :0].to(loss_dtype(x)).sum() for x in mask_logits])
            dice = mask.clone()
            for row, image in enumerate(known):
                logits, area = [x[image] for x in mask_logits], labels[image]
                queries, matched = self._match(
                    [x[row] for x in class_logits], logits, area, segments[image], generator
                )
                for target, rows, found in zip(targets, queries, matched, strict=True):
                    target[row, rows] = found
                image_mask, image_dice = self._mask_losses(
                    logits, area, queries, matched, generator
                )
                mask = mask + image_mask
                dice = dice + image_dice
            classes = torch.stack(
                [
                    self.classes.loss(x.flatten(0, 1), y.flatten(), self.no_object_weight)
                    for x, y in zip(class_logits, targets, strict=True)
                ]
            )
        return {
            "class": self.weights["class"] * classes / num_weighted,
            "mask": self.weights["mask"] * mask / num_masks,
            "dice": self.weights["dice"] * dice / num_masks,
        }

    @torch.no_grad()
    def _match(
        self,
        class_logits: list[Tensor],
        mask_logits: list[Tensor],
        area: Tensor,
        present: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """Return matched queries and the labels of their segments, int64 (A, K), for one image."""
        points = draw_points(area != self.ignore_label, (self.num_points,), generator=generator)
        # Layer by layer, because the masks of all layers would be the largest tensor of training
        at_points = torch.stack([sample_maps(x[None], points.xy[None])[0] for x in mask_logits])
        targets = point_targets(
            present, area.flatten()[points.pixel], self.hierarchy, at_points.dtype
        )
        bce, dice = mask_costs(at_points, targets)
        scores = self.classes.label_scores(torch.stack(class_logits), present)
        costs = (
            self.weights["mask"] * bce
            + self.weights["dice"] * dice
            - self.weights["class"] * scores
        )
        queries, found = match(costs).to(present.device).unbind(1)
        return queries, present[found]

    def _mask_losses(
        self,
        mask_logits: list[Tensor],
        area: Tensor,
        queries: Tensor,
        matched: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the sums (A,) of BCE and of dice over the matched masks of one image."""
        layers, per_layer = queries.shape
        masks = torch.cat([x[rows] for x, rows in zip(mask_logits, queries, strict=True)])
        points = draw_uncertain_points(
            masks, area != self.ignore_label, self.num_points, generator=generator, **self.sampling
        )
        logits = sample_maps(masks[:, None], points.xy)[:, 0]
        targets = point_targets(
            matched.flatten(), area.flatten()[points.pixel], self.hierarchy, logits.dtype
        )
        shape = (layers, per_layer)
        return (
            mask_bce(logits, targets).view(shape).sum(1),
            mask_dice(logits, targets).view(shape).sum(1),
        )


def match(costs: Tensor) -> Tensor:
    """Match the queries and segments of one image by SciPy, separately per layer.

    Costs that are not finite are replaced by a number above the highest finite cost, with a warning
    the first time.

    Args:
        costs: (A, Q, S) float, for A layers.

    Returns:
        int64 (A, 2, K) on the CPU, K = min(Q, S): matched queries and their segments, in ascending
        order of segments.
    """
    # Importing SciPy takes half a second, and inference does not need it.
    from scipy.optimize import linear_sum_assignment

    costs = costs.detach().double().cpu()
    finite = costs.isfinite()
    if not finite.all():
        _warn_once()
        highest = costs[finite].max() if finite.any() else costs.new_zeros(())
        costs = torch.where(finite, costs, highest + highest.abs().clamp(min=1))
    matched = []
    for cost in costs.transpose(1, 2).numpy():  # segments first: SciPy sorts by rows
        segments, queries = linear_sum_assignment(cost)
        matched.append(torch.stack([torch.as_tensor(queries), torch.as_tensor(segments)]))
    return torch.stack(matched).long()


@lru_cache
def _warn_once() -> None:
    logger.warning(
        "Costs of matching queries with segments are not finite: a mask or class logit is infinite "
        "or NaN. If the loss is not finite either, lower SOLVER.BASE_LR or set "
        "SOLVER.CLIP_GRADIENTS. This warning is shown once."
    )
