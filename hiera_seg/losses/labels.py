"""Check a batch of logits and labels, and map labels to the columns of `TreeIndex` tables."""

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.hierarchy.messages import listing
from hiera_seg.layers.tree_index import TreeIndex
from hiera_seg.losses.checks import (
    CHECK_VARIABLE,
    assert_on_device,
    check_logits,
    checks_on_host,
    tree_text,
)


class LabelledLogits:
    """Logits (B, N, H, W) with their labels, after validation.

    Attributes:
        logits, hierarchy: as given.
        index: int64 (B, H, W), the labels after `label_index`.
        tree: the tables of the tree on the device of the logits.
        pixels: int64 (N + 1,), the number of pixels of each label, void last; None on a GPU, where
            counting would have to wait for the device.
    """

    def __init__(self, logits: Tensor, labels: Tensor, hierarchy: Hierarchy, ignore_label: int):
        """See `check_logits` and `label_index` for the errors raised."""
        check_logits(logits, labels, hierarchy)
        self.logits, self.hierarchy = logits, hierarchy
        self.index = label_index(labels, hierarchy, ignore_label)
        self.tree = TreeIndex.of(hierarchy, logits.device)
        self.pixels = pixels_per_label(self.index, hierarchy)


def label_index(labels: Tensor, hierarchy: Hierarchy, ignore_label: int) -> Tensor:
    """Validate labels and map `ignore_label` to N, the void column of `TreeIndex` tables.

    Args:
        labels: (B, H, W) int64 node ids; other integer types are converted.
        hierarchy: the tree.
        ignore_label: the value of void; not a node id.

    Returns:
        int64 of the same shape, values 0 .. N.

    Raises:
        ValueError: `ignore_label` is a node id, or a label is neither a node id nor void. On CUDA
            the second is a device assertion; see `checks_on_host`.
    """
    num_nodes = hierarchy.num_nodes
    if 0 <= ignore_label < num_nodes:
        raise ValueError(
            f"ignore_label {ignore_label} is node {hierarchy.paths[ignore_label]!r} of "
            f"{tree_text(hierarchy)}; choose a value outside [0, {num_nodes})"
        )
    labels = labels.long()
    void = labels == ignore_label
    known = labels.masked_fill(void, 0)
    if not checks_on_host(labels):
        assert_on_device(
            ((known >= 0) & (known < num_nodes)).all(),
            f"a label is neither a node id of {tree_text(hierarchy)} nor the ignore label "
            f"{ignore_label}; set {CHECK_VARIABLE}=1 to see the value",
        )
        return known.masked_fill_(void, num_nodes)
    lowest, highest = known.aminmax() if known.numel() else (0, 0)
    if lowest < 0 or highest >= num_nodes:
        values = known[(known < 0) | (known >= num_nodes)].unique()
        raise ValueError(
            f"labels hold {listing(values.tolist())}: neither a node id of {tree_text(hierarchy)}, "
            f"0 .. {num_nodes - 1}, nor the ignore label {ignore_label}"
        )
    return known.masked_fill_(void, num_nodes)


def pixels_per_label(index: Tensor, hierarchy: Hierarchy) -> Tensor | None:
    """Count the pixels (N + 1,) of each label of `label_index`; None on a GPU."""
    if index.device.type != "cpu":
        return None
    return torch.bincount(index.flatten(), minlength=hierarchy.num_nodes + 1)
