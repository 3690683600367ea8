"""The losses of a mask transformer: class, mask and dice of matched queries (Mask2Former)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.point_sampling import draw_points, draw_uncertain_points, sample_maps
from hiera_seg.losses.checks import check_labels, label_index
from hiera_seg.losses.mask_terms import mask_bce, mask_costs, mask_dice, point_targets
from hiera_seg.losses.query_classes import NO_OBJECT
from hiera_seg.losses.query_matching import HungarianMatcher
from hiera_seg.losses.tiles import loss_dtype


class QueryLoss(nn.Module):
    """Losses of queries that are matched with the segments of an image.

    A segment is the set of all pixels of one label, a leaf or an inner node. Masks are compared at
    points: never in void, and without weight where label and segment are ancestor and descendant
    (a pixel known as "vehicle" says nothing about the mask of "car").
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
            classes: one of `QUERY_OPTIONS`, made for a tree.
            ignore_label: the value of void in labels.
            class_weight, mask_weight, dice_weight: of the losses, and of the costs of matching.
            no_object_weight: of the class loss of queries without a segment.
            num_points: at which masks are compared.
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
        self.matcher = HungarianMatcher()

    def segments(self, labels: Tensor) -> list[Tensor]:
        """The labels that each image holds, in ascending order.

        Args:
            labels: (B, H, W) int64 node ids or the ignore label.

        Returns:
            For each image int64 (S,); empty for one without a label.

        Raises:
            ValueError: a label that is neither a node id nor the ignore label (on CUDA a device
                assertion).
        """
        check_labels(labels)
        index = label_index(labels, self.hierarchy, self.ignore_label)
        return [present[present < self.hierarchy.num_nodes] for present in map(torch.unique, index)]

    def counts(self, segments: Sequence[Tensor], num_queries: int) -> Tensor:
        """The denominators of the losses of these images.

        Summed over all processes and divided by their number they make the mean of the processes'
        gradients that of one process with all images.

        Returns:
            float32 (2,) on the CPU: masks that are matched, queries weighted as in the class loss.
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
        counts: Tensor | None = None,
        segments: Sequence[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Match each layer's queries and compute its losses.

        Args:
            class_logits: for each of A layers (B, Q, K) float.
            mask_logits: for each layer (B, Q, h, w) float, over the same area as the labels.
            labels: (B, H, W) int64 node ids or the ignore label.
            counts: as from :meth:`counts`; None: of this batch.
            segments: as from :meth:`segments`, to save their search.
            generator: of random values, on the labels' device; None: PyTorch's own.

        Returns:
            {"class", "mask", "dice": (A,)}, weighted, float32 (float64 for float64 logits).
            An image without a segment, all of it void, trains nothing: what its queries should be
            is not known. Where no image has one, the losses are zeros that have a gradient path.
        """
        device_type = labels.device.type
        with torch.autocast(device_type, enabled=False):  # logits of 16 bits are read as 32
            if segments is None:
                segments = self.segments(labels)
            num_queries = class_logits[0].shape[1]
            if counts is None:
                counts = self.counts(segments, num_queries)
            counts = counts.to(labels.device)
            # Not clamp: a share of few masks among many processes is less than 1
            masks_count, queries_count = counts.where(counts > 0, 1.0)

            class_logits = [x.to(loss_dtype(x)) for x in class_logits]
            targets = [
                torch.full(x.shape[:2], NO_OBJECT, device=x.device, dtype=torch.long)
                for x in class_logits
            ]
            # The empty slices: gradient paths that nothing flows along
            mask = torch.stack([x[:, :0].to(loss_dtype(x)).sum() for x in mask_logits])
            dice = mask.clone()
            for image, present in enumerate(segments):
                if len(present) == 0:
                    continue
                logits = [x[image] for x in mask_logits]
                area = _Area(labels[image], self.ignore_label)
                queries, matched = self._match(
                    [x[image] for x in class_logits], logits, area, present, generator
                )
                for layer, (rows, found) in enumerate(zip(queries, matched, strict=True)):
                    targets[layer][image, rows] = found
                image_mask, image_dice = self._mask_losses(
                    logits, area, queries, matched, generator
                )
                mask = mask + image_mask
                dice = dice + image_dice
            if not all(map(len, segments)):
                known = [image for image, present in enumerate(segments) if len(present) > 0]
                class_logits = [x[known] for x in class_logits]
                targets = [x[known] for x in targets]
            classes = torch.stack(
                [
                    self.classes.loss(x.flatten(0, 1), y.flatten(), self.no_object_weight)
                    for x, y in zip(class_logits, targets, strict=True)
                ]
            )
        return {
            "class": self.weights["class"] * classes / queries_count,
            "mask": self.weights["mask"] * mask / masks_count,
            "dice": self.weights["dice"] * dice / masks_count,
        }

    @torch.no_grad()
    def _match(
        self,
        class_logits: list[Tensor],
        mask_logits: list[Tensor],
        area: _Area,
        present: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """int64 (A, K) matched queries of one image, and the labels of their segments."""
        points = draw_points(area.valid, (self.num_points,), generator=generator)
        # A layer at a time: all masks of all layers would be the largest tensor of training
        at_points = torch.stack([sample_maps(x[None], points.xy[None])[0] for x in mask_logits])
        targets = point_targets(present, area.labels[points.pixel], self.hierarchy, at_points.dtype)
        bce, dice = mask_costs(at_points, targets)
        scores = self.classes.label_scores(torch.stack(class_logits), present)
        costs = (
            self.weights["mask"] * bce
            + self.weights["dice"] * dice
            - self.weights["class"] * scores
        )
        queries, found = self.matcher(costs).to(present.device).unbind(1)
        return queries, present[found]

    def _mask_losses(
        self,
        mask_logits: list[Tensor],
        area: _Area,
        queries: Tensor,
        matched: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """(A,) sums of BCE and of dice over the matched masks of one image."""
        layers, per_layer = queries.shape
        masks = torch.cat([x[rows] for x, rows in zip(mask_logits, queries, strict=True)])
        points = draw_uncertain_points(
            masks, area.valid, self.num_points, generator=generator, **self.sampling
        )
        logits = sample_maps(masks[:, None], points.xy)[:, 0]
        targets = point_targets(
            matched.flatten(), area.labels[points.pixel], self.hierarchy, logits.dtype
        )
        shape = (layers, per_layer)
        return (
            mask_bce(logits, targets).view(shape).sum(1),
            mask_dice(logits, targets).view(shape).sum(1),
        )

    def extra_repr(self) -> str:
        weights = ", ".join(f"{name}: {weight:g}" for name, weight in self.weights.items())
        return f"{weights}, points: {self.num_points}"


class _Area:
    """The labels of one image, row by row, and where they are not void."""

    def __init__(self, labels: Tensor, ignore_label: int):
        self.valid = labels != ignore_label
        self.labels = labels.flatten()
