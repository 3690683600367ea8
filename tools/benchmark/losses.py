"""Compare losses with the flat loss that they replace, forward and backward."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.harness import Comparison
from hiera_seg.config import WIDE_IGNORE_VALUE
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers import TreeIndex
from hiera_seg.losses import level_ce_loss, marginal_ce_loss, tree_min_loss, tree_triplet_loss

VOID = 255


def cityscapes() -> Hierarchy:
    return Hierarchy.load("cityscapes")


def balanced(num_leaves: int, kinds: int, groups: int) -> Hierarchy:
    """Return a tree of three levels and ``num_leaves + kinds + groups`` nodes."""
    return Hierarchy.from_paths(
        [f"g{i % kinds % groups}/k{i % kinds}/l{i}" for i in range(num_leaves)]
    )


def mapillary_sized() -> Hierarchy:
    return balanced(118, 20, 6)  # 144 nodes


def large() -> Hierarchy:
    return balanced(10_000, 1_000, 100)  # 11,100 nodes


def street_labels(
    shape: tuple[int, ...],
    num_leaves: int,
    device: torch.device,
    patch: int = 32,
    void: int = VOID,
) -> Tensor:
    """Return leaf ids in square patches, similar to real labels; one pixel in 20 is void."""
    batch, height, width = shape
    labels = torch.randint(num_leaves, (batch, -(-height // patch), -(-width // patch)))
    labels = labels.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    labels = labels[:, :height, :width].contiguous()
    labels[torch.rand(labels.shape) < 0.05] = void
    return labels.to(device)


def _backward(loss: Callable[[Tensor], Tensor], values: Tensor) -> Callable[[], object]:
    def run():
        loss(values).backward()
        gradient, values.grad = values.grad, None  # every run begins without a gradient
        return gradient

    return run


def _void(tree: Hierarchy) -> int:
    return VOID if tree.num_nodes <= VOID else WIDE_IGNORE_VALUE


def _logits(tree: Hierarchy, shape, device, patch: int = 32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    batch, height, width = shape
    logits = torch.randn(batch, tree.num_nodes, height, width, device=device, requires_grad=True)
    return logits, street_labels(shape, tree.num_leaves, device, patch, _void(tree))


def make_tree_min(make_tree, shape, compiled: bool, device, patch: int = 32):
    tree = make_tree()
    logits, labels = _logits(tree, shape, device, patch)
    loss = torch.compile(tree_min_loss) if compiled else tree_min_loss
    void = _void(tree)
    return _backward(lambda x: loss(x, labels, tree, gamma=2.0, ignore_label=void), logits)


def make_bce(make_tree, shape, device):
    """Return the binary cross entropy of all nodes with precomputed float targets."""
    tree = make_tree()
    logits, labels = _logits(tree, shape, device)
    labels = labels.masked_fill(labels == _void(tree), tree.num_nodes)
    nodes = torch.arange(tree.num_nodes, device=device)[:, None, None]
    targets = TreeIndex.of(tree, device).is_on_path(nodes, labels[:, None]).float()
    return _backward(lambda x: F.binary_cross_entropy_with_logits(x, targets), logits)


def make_tree_ce(loss, shape, device, make_tree=cityscapes):
    tree = make_tree()
    logits, labels = _logits(tree, shape, device)
    return _backward(lambda x: loss(x, labels, tree, ignore_label=_void(tree)), logits)


def make_flat_ce(shape, device):
    """Return the cross entropy over the leaves, without logits of other nodes."""
    tree = cityscapes()
    logits, labels = _logits(tree, shape, device)
    leaves = logits.detach()[:, : tree.num_leaves].clone().requires_grad_()
    return _backward(lambda x: F.cross_entropy(x, labels, ignore_index=VOID), leaves)


_EMBEDDINGS = (4, 256, 64, 128)


def make_triplet(device, make_tree=cityscapes, embeddings=_EMBEDDINGS, size=(512, 1024)):
    tree = make_tree()
    torch.manual_seed(0)
    values = torch.randn(embeddings, device=device, requires_grad=True)
    void = _void(tree)
    labels = street_labels((embeddings[0], *size), tree.num_leaves, device, void=void)
    generator = torch.Generator(device).manual_seed(0)
    return _backward(
        lambda x: tree_triplet_loss(x, labels, tree, generator=generator, ignore_label=void), values
    )


def make_normalized(device):
    """Return the L2-normalisation of all embeddings, forward and backward."""
    torch.manual_seed(0)
    embeddings = torch.randn(_EMBEDDINGS, device=device, requires_grad=True)
    gradient = torch.randn(_EMBEDDINGS, device=device)

    def run():
        F.normalize(embeddings).backward(gradient)
        embeddings.grad = None

    return run


_CITY, _VISTAS, _LARGE = (2, 512, 1024), (1, 512, 512), (1, 64, 64)
_BCE = "binary_cross_entropy_with_logits, ready targets"
_CE = "cross_entropy over 19 leaves"

LOSSES = [
    Comparison(
        "focal tree_min, 26 nodes, 2 x 512 x 1024",
        partial(make_tree_min, cityscapes, _CITY, False),
        partial(make_bce, cityscapes, _CITY),
        _BCE,
        max_time=0.9,
        max_memory=0.7,
    ),
    Comparison(
        "focal tree_min, 26 nodes, labels in patches of 8",
        partial(make_tree_min, cityscapes, _CITY, False, patch=8),
        partial(make_bce, cityscapes, _CITY),
        _BCE,
        max_time=0.9,
        max_memory=0.7,
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
        max_time=0.9,
        max_memory=0.7,
    ),
    Comparison(
        "level_ce, 26 nodes, 2 x 512 x 1024",
        partial(make_tree_ce, level_ce_loss, _CITY),
        partial(make_flat_ce, _CITY),
        _CE,
        max_time=1.0,
        max_memory=0.7,
    ),
    Comparison(
        "marginal_ce, 26 nodes, 2 x 512 x 1024",
        partial(make_tree_ce, marginal_ce_loss, _CITY),
        partial(make_flat_ce, _CITY),
        _CE,
        max_time=1.15,
        max_memory=0.7,
    ),
    Comparison(
        "tree_triplet, 4 x 256 x 64 x 128",
        make_triplet,
        make_normalized,
        "L2 norm of the whole embedding",
        max_time=2.0,
    ),
    *(
        Comparison(
            f"{name}, 10,000 leaves",
            make,
            partial(make_bce, large, _LARGE),
            f"{_BCE}, 11,100 x 64 x 64",
            max_memory=1.2,
        )
        for name, make in {
            "focal tree_min": partial(make_tree_min, large, _LARGE, False),
            "level_ce": partial(make_tree_ce, level_ce_loss, _LARGE, make_tree=large),
            "marginal_ce": partial(make_tree_ce, marginal_ce_loss, _LARGE, make_tree=large),
            "tree_triplet": partial(
                make_triplet, make_tree=large, embeddings=(1, 256, 64, 64), size=(64, 64)
            ),
        }.items()
    ),
]
