"""Define the region mutual information loss between neighbourhoods of scores and of labels."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_index import TreeIndex
from hiera_seg.losses.checks import check_number
from hiera_seg.losses.fused.tiles import loss_dtype
from hiera_seg.losses.labels import LabelledLogits
from hiera_seg.losses.normalizers import pixel_normalizer
from hiera_seg.losses.registry import HIERA_LOSSES
from hiera_seg.losses.term import LossTerm, runs_eagerly

_POOL = 3  # side and stride of the max-pooling, padding 1
_WINDOW = 3  # side of a neighbourhood, which has 9 pixels
# Number of values of neighbourhoods that are computed at a time.
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
    """Compute the region mutual information loss (Zhao et al., arXiv 1910.12037) of all nodes.

    For every image and node, the targets y (1 where the node is the label or above it, else 0)
    and the scores ``p = sigmoid(logits)`` are max-pooled (side 3, stride 3, padding 1).
    The 3x3 neighbourhoods of the pooled maps give 9 rows each, Y and P, centred. With a = `ridge`::

        M = YY' - YP' (PP' + aI)^-1 PY'        loss = sum over nodes of the mean over images of
                                                      0.5 logdet(M + aI) / 9

    M is the covariance of the labels that remains once the scores are known. It bounds the mutual
    information of the two neighbourhoods from below. The value may be negative: a node that is
    absent from an image adds 0.5 log(a), about -3.45, and has no gradient. The value depends on the
    number of pixels, because covariances here are sums.

    Void pixels are unknown, and so are the nodes below an inner label (the label "vehicle" does not
    specify whether it is a car): there y = p = 0, without a gradient. (The 1e-6 that the public
    code adds to every p is removed by centring.)

    Args:
        logits: (B, N, H, W) float, one channel per node. Below 7x7 pixels there is no
            neighbourhood, and no gradient.
        labels: (B, H, W) int64 node ids, of leaves or inner nodes, or `ignore_label`.
        hierarchy: the tree.
        ridge: a, above 0.
        ignore_label: the value of void in `labels`.
        valid_count: accepted like in the other losses, but without effect: this is a mean over
            images, and processes with the same number of images have the same normalizer.

    Returns:
        Scalar, float32 (float64 for float64 logits), computed in float64; 0 with a gradient path
        if no pixel of the batch is valid. Can be differentiated once.

    Raises:
        ValueError: shapes or dtypes that do not fit, a ridge that is not positive, or a label that
            is neither a node id nor `ignore_label` (on CUDA a device assertion; see
            `label_index`).
    """
    check_number("ridge", ridge, minimum=0)
    if ridge == 0:
        raise ValueError("ridge must be above 0, not 0: an absent node has a covariance of 0")
    batch = LabelledLogits(logits, labels, hierarchy, ignore_label)
    if valid_count is not None:
        pixel_normalizer(valid_count, batch)  # checks it
    if logits.numel() == 0:
        return logits.sum().to(loss_dtype(logits))
    targets, known, where = _pool(logits.detach(), batch.index, batch.tree)
    # Only the pixels selected by the pooling are scored and get a gradient.
    best = logits.flatten(2).gather(2, where.flatten(2)).double()
    # Multiplying by 0 would not remove NaN; the sigmoid of -inf and its slope are 0.
    scores = best.masked_fill(~known.flatten(2), -torch.inf).sigmoid()

    half_logdet = _HalfLogdet.apply(scores.view(targets.shape), targets, ridge)
    value = half_logdet.mean(0).sum() / _WINDOW**2
    any_valid = (batch.index < hierarchy.num_nodes).any()
    return (value * any_valid).to(loss_dtype(logits))


@torch.no_grad()
def _pool(logits: Tensor, index: Tensor, tree: TreeIndex) -> tuple[Tensor, Tensor, Tensor]:
    """Max-pool targets and scores.

    The sigmoid is monotone; the pixel with the largest known logit therefore has the largest score.
    Images are pooled one by one, which limits the memory of full-size tensors.

    Args:
        logits: (B, N, H, W).
        index: int64 (B, H, W), N for void.

    Returns:
        Each (B, N, h, w): targets, float 0 or 1; whether any pixel of the window is known; and
        the position of the best known pixel in the flattened image, int64.
    """
    parts = []
    for image, labels in zip(logits, index, strict=True):
        size = image.shape[1:]
        image = image.to(loss_dtype(image))
        targets = tree.is_on_path(tree.nodes, labels.flatten()).view(-1, *size).to(image.dtype)
        hidden = tree.is_below(tree.nodes, labels.flatten()).view(-1, *size)
        masked = image.masked_fill(hidden, -torch.inf)
        best, where = F.max_pool2d(masked, _POOL, padding=1, return_indices=True)
        parts.append((F.max_pool2d(targets, _POOL, padding=1), best != -torch.inf, where))
    targets, known, where = (torch.stack(part) for part in zip(*parts, strict=True))
    return targets, known, where


class _HalfLogdet(torch.autograd.Function):
    """0.5 logdet(M + aI) of maps of scores and targets, computed a few maps at a time.

    The neighbourhoods of scores and targets each hold nine times the values of a map. Keeping those
    of a batch for the backward pass would need many times the memory of its logits. The gradient is
    therefore computed in the forward pass.
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
        # A GPU needs few large steps, a CPU steps that fit its cache.
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
    scores: Tensor, targets: Tensor, ridge: float, needs_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the values of K maps (K, h, w) and, if needed, their gradients to the scores."""
    y, p = _neighbourhoods(targets), _neighbourhoods(scores)
    identity = ridge * torch.eye(_WINDOW**2, dtype=y.dtype, device=y.device)
    # With PP' + aI = LL' and W = L^-1 PY', M is YY' - W'W: symmetric in spite of rounding.
    # cholesky_ex does not wait for the device and does not raise: NaN logits give a NaN loss.
    lower = torch.linalg.cholesky_ex(p @ p.mT + identity).L
    explained = torch.linalg.solve_triangular(lower, p @ y.mT, upper=False)
    rest = y @ y.mT - explained.mT @ explained
    factor = torch.linalg.cholesky_ex(rest + identity).L
    # logdet is twice the sum of the logarithms, which cancels the 0.5 of the formula.
    value = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    if not needs_slope:
        return value, None
    # With K = (PP' + aI)^-1 PY' and H = (M + aI)^-1, d value / dP = K H (K'P - Y). Its rows are
    # centred like those of P and Y; the derivative of the centring therefore changes nothing.
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
    """Return the shifts of a 3x3 window as centred rows: (K, h, w) -> (K, 9, (h - 2) (w - 2))."""
    if min(maps.shape[1:]) < _WINDOW:
        return maps.new_zeros(len(maps), _WINDOW**2, 0)
    windows = maps.unfold(1, _WINDOW, 1).unfold(2, _WINDOW, 1).permute(0, 3, 4, 1, 2)
    rows = torch.empty(windows.shape, dtype=maps.dtype, device=maps.device).copy_(windows)
    rows = rows.flatten(3).flatten(1, 2)
    return rows.sub_(rows.mean(-1, keepdim=True))


@HIERA_LOSSES.register(name="rmi")
class RMILoss(LossTerm, function=rmi_loss):
    """`rmi_loss` as a module."""

    normalizer = None
    decoding = "path_sum"
