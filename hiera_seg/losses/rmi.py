"""The region mutual information loss: neighbourhoods of scores against neighbourhoods of labels."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses.checks import check_logits, check_number, label_index, pixel_count
from hiera_seg.losses.compiling import runs_eagerly
from hiera_seg.losses.registry import HIERA_LOSSES
from hiera_seg.losses.tiles import loss_dtype

_POOL = 3  # side and stride of the max-pooling, padding 1
_WINDOW = 3  # side of a neighbourhood, so that it has 9 places
# Values in the neighbourhoods that are computed at a time.
_CPU_VALUES = 1 << 18
_GPU_VALUES = 1 << 24


@runs_eagerly
def rmi_loss(
    logits: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    ridge: float = 1e-3,
    ignore_label: int = 255,
    valid_count: float | Tensor | None = None,
) -> Tensor:
    """Region mutual information loss (Zhao et al., arXiv 1910.12037) on the nodes of a tree.

    For every image and node, the targets y (1 where the node is the label or above it, else 0)
    and the scores ``p = sigmoid(logits)`` are max-pooled (side 3, stride 3, padding 1).
    The 3x3 neighbourhoods of the pooled maps give 9 rows each, Y and P, centred. With a = `ridge`::

        M = YY' - YP' (PP' + aI)^-1 PY'        loss = sum over nodes of the mean over images of
                                                      0.5 logdet(M + aI) / 9

    M is what is left of the labels' covariance once the scores are known: a lower bound of the
    mutual information of the two neighbourhoods, turned into a loss. The value may be negative:
    a node that is absent from an image counts 0.5 log(a), about -3.45, and has no gradient. It
    depends on the number of pixels, as covariances here are sums.

    A pixel says nothing about void, and nothing about the nodes below an inner label ("some
    vehicle" does not tell whether it is a car): for such a node the pixel has y = p = 0, as void
    has for all, and gets no gradient. (The 1e-6 that the public code adds to every p falls out
    in centring.)

    Args:
        logits: (B, N, H, W) float, one channel a node. Below 7x7 pixels there
            is no neighbourhood, and no gradient.
        labels: (B, H, W) int64 node ids, of leaves or inner nodes, or `ignore_label`.
        hierarchy: the tree.
        ridge: a, above 0.
        ignore_label: the value of void in `labels`.
        valid_count: taken as by the other losses, and without effect: this is a mean over images,
            so processes with equally many images have one denominator already.

    Returns:
        Scalar, float32 (float64 for float64 logits), computed in float64; 0 with a gradient path
        where no pixel of the batch is valid. Can be differentiated once.

    Raises:
        ValueError: shapes or types that do not fit, a ridge that is not positive, or a label that
            is neither a node id nor `ignore_label` (on CUDA a device assertion; see
            `label_index`).
    """
    check_logits(logits, labels, hierarchy)
    _check_ridge(ridge)
    index = label_index(labels, hierarchy, ignore_label)
    if valid_count is not None:
        pixel_count(valid_count, index, hierarchy)  # checks it
    if logits.numel() == 0:
        return logits.sum().to(loss_dtype(logits))
    targets, known, where = _pool(logits.detach(), index, hierarchy)
    # Only the pixels that win the pooling are scored, and get a gradient.
    best = logits.flatten(2).gather(2, where.flatten(2)).double()
    # Not times 0, which NaN survives: the sigmoid of -inf is 0, and so is its slope.
    scores = best.masked_fill(~known.flatten(2), -torch.inf).sigmoid()

    half_logdet = _HalfLogdet.apply(scores.view(targets.shape), targets, ridge)
    value = half_logdet.mean(0).sum() / _WINDOW**2
    any_valid = (index != hierarchy.num_nodes).any()
    return (value * any_valid).to(loss_dtype(logits))


def _check_ridge(ridge: float) -> None:
    check_number("ridge", ridge, minimum=0)
    if ridge == 0:
        raise ValueError("ridge must be above 0: an absent node has a covariance of 0")


@lru_cache(maxsize=64)
def _label_tables(hierarchy: Hierarchy, device: torch.device) -> tuple[Tensor, Tensor]:
    """bool (N, N + 1) by label, void last: which nodes are positive, and about which it tells."""
    ancestor = torch.tensor(hierarchy.ancestor_matrix)
    with torch.inference_mode(False):
        positive = ancestor.T
        known = positive | ~ancestor  # all but the nodes below the label
        void = torch.zeros(hierarchy.num_nodes, 1, dtype=torch.bool)
        return tuple(torch.cat([x, void], 1).to(device) for x in (positive, known))


@torch.no_grad()
def _pool(logits: Tensor, index: Tensor, hierarchy: Hierarchy) -> tuple[Tensor, Tensor, Tensor]:
    """Max-pool targets and scores.

    The sigmoid is monotone, so that the pixel with the largest known logit has the largest score.
    Image by image: what is made of full size here is one image's at a time.

    Args:
        logits: (B, N, H, W).
        index: int64 (B, H, W), N for void.

    Returns:
        Each (B, N, h, w): targets, float 0 or 1; whether any pixel of the window is known; and
        the position of the best known one in the flattened image, int64.
    """
    positive, known = _label_tables(hierarchy, logits.device)
    parts = []
    for image, labels in zip(logits, index, strict=True):
        size = image.shape[1:]
        image = image.to(loss_dtype(image))
        targets = positive.index_select(1, labels.flatten()).view(-1, *size).to(image.dtype)
        hidden = ~known.index_select(1, labels.flatten()).view(-1, *size)
        masked = image.masked_fill(hidden, -torch.inf)
        best, where = F.max_pool2d(masked, _POOL, padding=1, return_indices=True)
        parts.append((F.max_pool2d(targets, _POOL, padding=1), best != -torch.inf, where))
    targets, known, where = (torch.stack(part) for part in zip(*parts, strict=True))
    return targets, known, where


class _HalfLogdet(torch.autograd.Function):
    """0.5 logdet(M + aI) of maps of scores and targets, some maps at a time with their gradients.

    The neighbourhoods of a map hold nine times its values, and twice so with those of its targets:
    kept until the backward pass, those of a batch would be many times its logits.
    """

    @staticmethod
    def forward(ctx, scores: Tensor, targets: Tensor, ridge: float) -> Tensor:
        """
        Args:
            scores: float64 (B, N, h, w).
            targets: (B, N, h, w) 0 or 1, of any float type.
            ridge: a.

        Returns:
            float64 (B, N). Can be differentiated once, with respect to the scores.
        """
        scores_of, targets_of = scores.flatten(0, 1), targets.flatten(0, 1)
        slopes = torch.empty_like(scores_of) if ctx.needs_input_grad[0] else None
        # A GPU wants few large steps, a CPU such that fit its cache.
        values = _CPU_VALUES if scores.device.type == "cpu" else _GPU_VALUES
        step = max(1, values // (_WINDOW**2 * max(1, scores_of[0].numel())))
        parts = []
        for start in range(0, len(scores_of), step):
            chunk = slice(start, start + step)
            part, slope = _half_logdet(
                scores_of[chunk], targets_of[chunk].double(), ridge, slopes is not None
            )
            parts.append(part)
            if slope is not None:
                slopes[chunk] = slope
        ctx.save_for_backward(slopes)
        return torch.cat(parts).view(scores.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor):
        (slopes,) = ctx.saved_tensors
        gradient = slopes.view(*grad_output.shape, *slopes.shape[1:])
        return gradient * grad_output[:, :, None, None], None, None


def _half_logdet(
    scores: Tensor, targets: Tensor, ridge: float, wants_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Value of each of K maps (K, h, w), and its gradient with respect to the scores, if wanted."""
    y, p = _neighbourhoods(targets), _neighbourhoods(scores)
    identity = ridge * torch.eye(_WINDOW**2, dtype=y.dtype, device=y.device)
    # With PP' + aI = LL' and W = L^-1 PY', M is YY' - W'W: symmetric whatever is rounded.
    # cholesky_ex neither waits for the device nor raises: logits that are NaN give a loss of NaN.
    lower = torch.linalg.cholesky_ex(p @ p.mT + identity).L
    explained = torch.linalg.solve_triangular(lower, p @ y.mT, upper=False)
    rest = y @ y.mT - explained.mT @ explained
    factor = torch.linalg.cholesky_ex(rest + identity).L
    # logdet is twice the sum of the logarithms, which the 0.5 of the formula takes back.
    value = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    if not wants_slope:
        return value, None
    # With K = (PP' + aI)^-1 PY' and H = (M + aI)^-1, d value / dP = K H (K'P - Y). Its rows are
    # centred as those of P and Y are, so that the centring itself changes nothing of it.
    k = torch.linalg.solve_triangular(lower.mT, explained, upper=True)
    half = torch.linalg.solve_triangular(factor, k.mT, upper=False)
    k_h = torch.linalg.solve_triangular(factor.mT, half, upper=True).mT
    rows = k_h @ torch.baddbmm(y, k.mT, p, beta=-1)
    slope = torch.zeros_like(scores)
    height, width = (max(0, n - _WINDOW + 1) for n in scores.shape[1:])
    for place, row in enumerate(rows.unbind(1)):
        top, left = divmod(place, _WINDOW)
        slope[:, top : top + height, left : left + width] += row.view(len(scores), height, width)
    return value, slope


def _neighbourhoods(maps: Tensor) -> Tensor:
    """The shifts of a 3x3 window as centred rows: (K, h, w) -> (K, 9, (h - 2) (w - 2))."""
    if min(maps.shape[1:]) < _WINDOW:
        return maps.new_zeros(len(maps), _WINDOW**2, 0)
    windows = maps.unfold(1, _WINDOW, 1).unfold(2, _WINDOW, 1).permute(0, 3, 4, 1, 2)
    rows = torch.empty(windows.shape, dtype=maps.dtype, device=maps.device).copy_(windows)
    rows = rows.flatten(3).flatten(1, 2)
    return rows.sub_(rows.mean(-1, keepdim=True))


@HIERA_LOSSES.register(name="rmi")
class RMILoss(nn.Module):
    """`rmi_loss` as a module."""

    needs = "logits"
    counts = None

    def __init__(self, hierarchy: Hierarchy, *, ignore_label: int = 255, ridge: float = 1e-3):
        """
        Args:
            hierarchy, ignore_label, ridge: as in `rmi_loss`.
        """
        super().__init__()
        _check_ridge(ridge)
        self.hierarchy = hierarchy
        self.options = {"ignore_label": ignore_label, "ridge": ridge}

    def forward(
        self, logits: Tensor, labels: Tensor, *, valid_count: float | Tensor | None = None
    ) -> Tensor:
        """See `rmi_loss`; a mean over images has no use for `valid_count`."""
        return rmi_loss(logits, labels, self.hierarchy, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
