"""Check a batch of logits and labels, and map labels to the columns of `TreeIndex` tables."""

from __future__ import annotations

from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses.checks import CHECK_VARIABLE, assert_on_device, checks_on_host, tree_text


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
    elif known.numel() and not _within(known, num_nodes):
        values = known[(known < 0) | (known >= num_nodes)].unique()
        shown = ", ".join(str(value) for value in values[:8].tolist())
        more = f" and {len(values) - 8} more" if len(values) > 8 else ""
        raise ValueError(
            f"labels hold {shown}{more}: neither a node id of {tree_text(hierarchy)}, "
            f"0 .. {num_nodes - 1}, nor the ignore label {ignore_label}"
        )
    return known.masked_fill_(void, num_nodes)


def _within(values: Tensor, stop: int) -> bool:
    lowest, highest = values.aminmax()
    return bool(lowest >= 0) and bool(highest < stop)
