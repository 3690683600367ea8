"""Losses against the flat loss they replace, forward and backward."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.harness import Comparison
from hiera_seg.config import WIDE_IGNORE_VALUE
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import level_ce_loss, marginal_ce_loss, tree_min_loss, tree_triplet_loss

VOID = 255


def cityscapes() -> Hierarchy:
    return Hierarchy.load("cityscapes")


def balanced(num_leaves: int, kinds: int, groups: int) -> Hierarchy:
    """A tree of three levels and ``num_leaves + kinds + groups`` nodes."""
    return Hierarchy.from_paths(
        [f"g{i % kinds % groups}/k{i % kinds}/l{i}" for i in range(num_leaves)]
    )


def mapillary_sized() -> Hierarchy:
    return balanced(118, 20, 6)  # 144 nodes


def street_labels(shape: tuple[int, ...], num_leaves: int, device: torch.device) -> Tensor:
    """Leaf ids in patches, as labels lie in pictures, one pixel in 20 void."""
    batch, height, width = shape
    coarse = torch.randint(num_leaves, (batch, 1, -(-height // 32), -(-width // 32))).float()
    labels = F.interpolate(coarse, scale_factor=32)[:, 0, :height, :width].long()
    labels[torch.rand(labels.shape) < 0.05] = VOID
    return labels.contiguous().to(device)


def _backward(loss: Callable[[Tensor], Tensor], values: Tensor) -> Callable[[], object]:
    def run():
        loss(values).backward()
        gradient, values.grad = values.grad, None  # so that every run begins without one
        return gradient

    return run


def _logits(tree: Hierarchy, shape, device) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    batch, height, width = shape
    logits = torch.randn(batch, tree.num_nodes, height, width, device=device, requires_grad=True)
    return logits, street_labels(shape, tree.num_leaves, device)


def make_tree_min(make_tree, shape, compiled: bool, device):
    tree = make_tree()
    logits, labels = _logits(tree, shape, device)
    void = VOID if tree.num_nodes <= VOID else WIDE_IGNORE_VALUE
    labels[labels == VOID] = void  # a leaf 255 too: void all the same
    loss = torch.compile(tree_min_loss) if compiled else tree_min_loss
    return _backward(
        lambda x: loss(x, labels, tree, gamma=2.0, normalize="sum", ignore_label=void), logits
    )


def make_bce(make_tree, shape, device):
    """Binary cross entropy of all nodes against ready-made float targets."""
    tree = make_tree()
    logits, labels = _logits(tree, shape, device)
    rows = torch.from_numpy(tree.ancestor_matrix.copy()).to(device)
    targets = rows[labels.clamp(max=tree.num_nodes - 1)].permute(0, 3, 1, 2).float().contiguous()
    return _backward(lambda x: F.binary_cross_entropy_with_logits(x, targets), logits)


def make_tree_ce(loss, shape, device):
    tree = cityscapes()
    logits, labels = _logits(tree, shape, device)
    return _backward(lambda x: loss(x, labels, tree, ignore_label=VOID), logits)


def make_flat_ce(shape, device):
    """Cross entropy over the leaves; the logits of the other nodes are not there."""
    tree = cityscapes()
    logits, labels = _logits(tree, shape, device)
    leaves = logits.detach()[:, : tree.num_leaves].clone().requires_grad_()
    return _backward(lambda x: F.cross_entropy(x, labels, ignore_index=VOID), leaves)


_EMBEDDINGS = (4, 256, 64, 128)


def make_triplet(device):
    tree = cityscapes()
    torch.manual_seed(0)
    embeddings = torch.randn(_EMBEDDINGS, device=device, requires_grad=True)
    labels = street_labels((_EMBEDDINGS[0], 512, 1024), tree.num_leaves, device)
    generator = torch.Generator(device).manual_seed(0)
    return _backward(
        lambda x: tree_triplet_loss(x, labels, tree, samples_per_class=64, generator=generator),
        embeddings,
    )


def make_normalized(device):
    """L2-normalise the whole embedding, and go back."""
    torch.manual_seed(0)
    embeddings = torch.randn(_EMBEDDINGS, device=device, requires_grad=True)
    gradient = torch.randn(_EMBEDDINGS, device=device)

    def run():
        F.normalize(embeddings).backward(gradient)
        embeddings.grad = None

    return run


_CITY, _VISTAS = (2, 512, 1024), (1, 512, 512)
_BCE = "binary_cross_entropy_with_logits, ready targets"

LOSSES = [
    Comparison(
        "focal tree_min, 26 nodes, 2 x 512 x 1024",
        partial(make_tree_min, cityscapes, _CITY, False),
        partial(make_bce, cityscapes, _CITY),
        _BCE,
        max_time=1.5,
        max_memory=1.1,
    ),
    Comparison(
        "focal tree_min, 26 nodes, torch.compile",
        partial(make_tree_min, cityscapes, _CITY, True),
        partial(make_bce, cityscapes, _CITY),
        _BCE,
        max_time=1.0,
    ),
    Comparison(
        "focal tree_min, 144 nodes, 1 x 512 x 512",
        partial(make_tree_min, mapillary_sized, _VISTAS, False),
        partial(make_bce, mapillary_sized, _VISTAS),
        _BCE,
        max_time=1.6,
        max_memory=1.1,
    ),
    Comparison(
        "focal tree_min, 144 nodes, torch.compile",
        partial(make_tree_min, mapillary_sized, _VISTAS, True),
        partial(make_bce, mapillary_sized, _VISTAS),
        _BCE,
        max_time=1.0,
    ),
    Comparison(
        "level_ce, 26 nodes, 2 x 512 x 1024",
        partial(make_tree_ce, level_ce_loss, _CITY),
        partial(make_flat_ce, _CITY),
        "cross_entropy over 19 leaves",
        max_time=1.6,
    ),
    Comparison(
        "marginal_ce, 26 nodes, 2 x 512 x 1024",
        partial(make_tree_ce, marginal_ce_loss, _CITY),
        partial(make_flat_ce, _CITY),
        "cross_entropy over 19 leaves",
        max_time=2.0,
    ),
    Comparison(
        "tree_triplet, 4 x 256 x 64 x 128",
        make_triplet,
        make_normalized,
        "L2 norm of the whole embedding",
        max_time=2.0,
    ),
]
