"""The triplets that are drawn, and their loss, against enumeration."""

import itertools
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import tree_triplet_loss, triplet_weight
from hiera_seg.losses.tree_triplet import sample_triplets
from tests.helpers import value_and_gradient


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def _drawn(triplets):
    """(anchor, positive, negative) of the triplets that stand for something."""
    rows = torch.stack([triplets.anchor, triplets.positive, triplets.negative], 1)
    return rows[triplets.weight > 0].tolist()


def _has_triplet(labels, hierarchy, anchor):
    """Whether two other leaf pixels stand at different distances from the anchor."""
    label = labels.flatten().tolist()
    leaves = [i for i, v in enumerate(label) if v < hierarchy.num_leaves and i != anchor]
    return len({int(hierarchy.distance_matrix[label[anchor], label[i]]) for i in leaves}) > 1


@pytest.mark.parametrize("samples_per_class", [1, 2, 5, 64])
@pytest.mark.parametrize("seed", range(8))
def test_triplets_are_valid_and_none_is_missed(oracle, seed, samples_per_class):
    hierarchy, _, labels = oracle.random_case(seed, height=6, width=5, void=0.3)
    triplets = sample_triplets(
        labels, hierarchy, samples_per_class=samples_per_class, generator=_seeded(seed)
    )
    label = labels.flatten().tolist()
    psi = hierarchy.distance_matrix
    drawn = _drawn(triplets)
    for anchor, positive, negative in drawn:
        assert len({anchor, positive, negative}) == 3
        assert max(label[anchor], label[positive], label[negative]) < hierarchy.num_leaves
        assert psi[label[anchor], label[positive]] < psi[label[anchor], label[negative]]
    expected_gap = [psi[label[i], label[n]] - psi[label[i], label[p]] for i, p, n in drawn]
    assert triplets.gap[triplets.weight > 0].tolist() == expected_gap

    assert len({anchor for anchor, _, _ in drawn}) == len(drawn)  # without replacement
    present = Counter(v for v in label if v < hierarchy.num_leaves)
    anchors = Counter(label[anchor] for anchor, _, _ in drawn)
    for leaf, count in present.items():
        possible = _has_triplet(labels, hierarchy, label.index(leaf))
        assert anchors[leaf] == (min(count, samples_per_class) if possible else 0)
    for anchor, weight in zip(triplets.anchor.tolist(), triplets.weight.tolist(), strict=True):
        if weight:
            assert weight == pytest.approx(1 / (anchors[label[anchor]] * len(anchors)))


def test_all_pairs_of_an_anchor_are_equally_likely():
    tree = Hierarchy.from_dict({"a": ["p", "q"], "b": ["r"]})
    labels = torch.tensor([[[0, 0, 1, 1, 2]]])
    found = Counter()
    for seed in range(1000):
        triplets = sample_triplets(labels, tree, generator=_seeded(seed))
        found.update((p, n) for i, p, n in _drawn(triplets) if i == 0)
    psi = tree.distance_matrix
    label = labels.flatten().tolist()
    pairs = [
        (p, n)
        for p, n in itertools.permutations(range(1, 5), 2)
        if psi[0, label[p]] < psi[0, label[n]]
    ]
    assert set(found) == set(pairs)
    expected = 1000 / len(pairs)
    chi_square = sum((found[pair] - expected) ** 2 / expected for pair in pairs)
    assert chi_square < 15.1  # 4 degrees of freedom, 0.5 %


def test_all_pixels_of_a_class_are_equally_likely_anchors():
    tree = Hierarchy.from_dict({"a": ["p", "q"], "b": ["r"]})
    labels = torch.tensor([[[0, 0, 0, 0, 1, 2]]])
    found = Counter()
    for seed in range(800):
        triplets = sample_triplets(labels, tree, samples_per_class=1, generator=_seeded(seed))
        found.update(i for i, _, _ in _drawn(triplets) if i < 4)
    chi_square = sum((found[i] - 200) ** 2 / 200 for i in range(4))
    assert chi_square < 12.8  # 3 degrees of freedom, 0.5 %


@pytest.mark.parametrize("margin", [None, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_loss_of_the_drawn_triplets_equals_the_formula(oracle, seed, margin):
    hierarchy, _, labels = oracle.random_case(seed, height=6, width=5)
    embeddings = torch.randn(2, 8, 6, 5, dtype=torch.float64, generator=_seeded(seed)) * 10
    options = {"margin_eps": 0.2, "margin": margin}
    found = tree_triplet_loss(
        embeddings, labels, hierarchy, samples_per_class=4, generator=_seeded(1), **options
    )
    triplets = sample_triplets(labels, hierarchy, samples_per_class=4, generator=_seeded(1))
    expected = oracle.triplet(embeddings, labels, hierarchy, triplets, **options)
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_margin_of_strangers_against_siblings_on_cityscapes(cityscapes):
    """Equal embeddings leave the margin alone: 0.1 + 0.5 (4 - 2) / (2 x 2)."""
    labels = torch.tensor([[[cityscapes[name] for name in ("car", "bus", "road")]]])
    embeddings = torch.ones(1, 4, 1, 3)
    triplets = sample_triplets(labels, cityscapes, generator=_seeded(0))
    assert sorted(_drawn(triplets)) == [[0, 1, 2], [1, 0, 2]]  # road: all others as far
    assert tree_triplet_loss(embeddings, labels, cityscapes).item() == pytest.approx(0.35)
    assert tree_triplet_loss(embeddings, labels, cityscapes, margin=0.6).item() == pytest.approx(
        0.6
    )


def test_gradcheck_and_scale_invariance(oracle):
    hierarchy, _, labels = oracle.random_case(0, height=3, width=3, void=0.1, coarse=False)
    embeddings = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=_seeded(0))

    def loss(values):
        return tree_triplet_loss(values, labels, hierarchy, generator=_seeded(2), margin=1.5)

    assert torch.autograd.gradcheck(loss, embeddings.requires_grad_())
    assert torch.autograd.gradgradcheck(loss, embeddings)
    assert loss(embeddings).item() > 0
    for scale in (1e-30, 1e30):
        scaled = (embeddings.detach() * scale).float().requires_grad_()
        value = loss(scaled)
        value.backward()
        assert value.item() == pytest.approx(loss(embeddings).item(), rel=1e-5)
        assert torch.isfinite(scaled.grad).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("known", [False, True])
def test_embeddings_without_a_leaf_that_are_not_finite_change_nothing(cityscapes, bad, known):
    """The first pixel stands in for the triplets that there are not, void or not."""
    embeddings = torch.randn(1, 4, 6, 5, generator=_seeded(0))
    labels = torch.full((1, 6, 5), 255)
    labels[0, 0, 1] = cityscapes["vehicle"]  # no leaf
    if known:
        labels[0, 3:] = torch.arange(15).view(3, 5) // 4
    values = []
    for of_void in (1.0, bad):
        x = embeddings.clone()
        x.permute(0, 2, 3, 1)[labels >= cityscapes.num_leaves] = of_void
        generator = _seeded(1)
        values.append(
            value_and_gradient(tree_triplet_loss, x, labels, cityscapes, generator=generator)
        )
    assert (values[0][0] > 0) == known
    assert all(map(torch.equal, *values))


def test_zero_embeddings_stay_finite(cityscapes):
    labels = torch.randint(0, 19, (1, 4, 4), generator=_seeded(0))
    embeddings = torch.zeros(1, 8, 4, 4)
    value, gradient = value_and_gradient(tree_triplet_loss, embeddings, labels, cityscapes)
    assert torch.isfinite(value) and gradient.eq(0).all()


@pytest.mark.parametrize("size", [(9, 14), (50, 53), (37, 20), (1, 1), (11, 107)], ids=str)
@pytest.mark.parametrize("ignore_label", [255, 2**24 + 1, 2**31 - 1, -1])
def test_labels_of_any_size_are_read_by_nearest_neighbour(cityscapes, size, ignore_label):
    labels = torch.randint(0, 19, (2, 37, 53), generator=_seeded(0))
    labels[0, 3:9] = ignore_label  # not at (0, 0)
    embeddings = torch.randn(2, 8, *size, generator=_seeded(1))
    small = F.interpolate(labels[:, None].double(), size=size, mode="nearest")[:, 0].long()
    arguments = {"samples_per_class": 3, "ignore_label": ignore_label}
    found = tree_triplet_loss(embeddings, labels, cityscapes, generator=_seeded(2), **arguments)
    expected = tree_triplet_loss(embeddings, small, cityscapes, generator=_seeded(2), **arguments)
    assert found == expected
    assert found > 0 or size == (1, 1)


def test_a_function_of_the_generator_alone(cityscapes):
    labels = torch.randint(0, 19, (2, 12, 12), generator=_seeded(0))
    embeddings = torch.randn(2, 8, 12, 12, generator=_seeded(1))

    def loss(seed):
        generator = None if seed is None else _seeded(seed)
        return tree_triplet_loss(
            embeddings, labels, cityscapes, samples_per_class=2, generator=generator
        )

    before = torch.get_rng_state()
    first = loss(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert loss(5) == first != loss(6)
    torch.manual_seed(9)
    default = loss(None)
    torch.manual_seed(9)
    assert loss(None) == default


def test_several_threads_add_up_gradients_in_one_order(cityscapes):
    # Two pixels a class: each is read by many triplets, of vectors long enough for many threads.
    labels = torch.full((1, 32, 32), 255)
    labels[0, ::16, ::16] = torch.tensor([[0, 0], [1, 1]])
    embeddings = torch.randn(1, 512, 32, 32, generator=_seeded(1), requires_grad=True)

    def gradient():
        loss = tree_triplet_loss(embeddings, labels, cityscapes, margin=1.0)
        return torch.autograd.grad(loss * 1e3, embeddings)[0]

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        torch.manual_seed(3)
        first = gradient()
        for _ in range(30):
            torch.manual_seed(3)
            assert torch.equal(gradient(), first)
    finally:
        torch.set_num_threads(threads)


def test_draws_as_many_values_whatever_the_labels(cityscapes):
    states = []
    for labels in (torch.randint(0, 19, (1, 6, 6)), torch.full((1, 6, 6), 255)):
        generator = _seeded(0)
        sample_triplets(labels, cityscapes, generator=generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reduces_in_float32(cityscapes, dtype):
    labels = torch.randint(0, 19, (1, 8, 8), generator=_seeded(0))
    embeddings = torch.randn(1, 16, 8, 8, generator=_seeded(1)).to(dtype)
    value, gradient = value_and_gradient(
        tree_triplet_loss, embeddings, labels, cityscapes, generator=_seeded(2)
    )
    expected = tree_triplet_loss(embeddings.float(), labels, cityscapes, generator=_seeded(2))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    assert gradient.dtype == dtype and torch.isfinite(gradient).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tree_triplet_loss(embeddings.float(), labels, cityscapes, generator=_seeded(2))
    assert found == expected


@pytest.mark.parametrize(
    "label", [255, 18, 24, None], ids=["all void", "one class", "inner nodes", "void and two"]
)
def test_no_triplet_is_zero_with_a_gradient_path(cityscapes, label):
    labels = torch.full((1, 4, 4), 255 if label is None else label)
    if label is None:
        labels[0, 0, :2] = torch.tensor([0, 13])
    before = labels.clone()
    embeddings = torch.randn(1, 8, 4, 4)
    value, gradient = value_and_gradient(tree_triplet_loss, embeddings, labels, cityscapes)
    assert value == 0 and gradient.eq(0).all()
    assert torch.equal(labels, before)


@pytest.mark.parametrize(("grid", "size"), [((0, 3), (8, 8)), ((3, 0), (8, 8)), ((4, 4), (0, 8))])
def test_maps_without_a_pixel_are_zero(cityscapes, grid, size):
    embeddings, labels = torch.randn(2, 8, *grid), torch.zeros(2, *size, dtype=torch.long)
    value, gradient = value_and_gradient(tree_triplet_loss, embeddings, labels, cityscapes)
    assert value == 0 and gradient.eq(0).all()


def test_one_leaf_and_one_pixel():
    tree = Hierarchy.from_dict(["a"])
    embeddings, labels = torch.randn(1, 2, 1, 1), torch.zeros(1, 3, 3, dtype=torch.long)
    value, gradient = value_and_gradient(tree_triplet_loss, embeddings, labels, tree)
    assert value == 0 and gradient.eq(0).all()


def test_bad_arguments(cityscapes):
    embeddings, labels = torch.zeros(2, 8, 4, 4), torch.zeros(2, 8, 8, dtype=torch.long)
    wrong = {
        r"embeddings must be .*\(8, 4, 4\)": (embeddings[0], labels),
        "labels must be .*torch.float32": (embeddings, labels.float()),
        "labels hold 1 images, embeddings 2": (embeddings, labels[:1]),
        "labels hold 26: .*'cityscapes'": (embeddings, torch.where(labels == 0, 26, labels)),
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message):
            tree_triplet_loss(*arguments, cityscapes)
    between = labels.clone()
    between[0, 1, 1] = 40  # at a place that the embeddings' grid does not read
    with pytest.raises(ValueError, match="labels hold 40"):
        tree_triplet_loss(embeddings, between, cityscapes)
    with pytest.raises(ValueError, match="samples_per_class"):
        tree_triplet_loss(embeddings, labels, cityscapes, samples_per_class=0)


def test_schedule():
    assert triplet_weight(0, 100) == 0
    assert triplet_weight(50, 100) == pytest.approx(0.25)
    assert triplet_weight(25, 100) == pytest.approx(0.25 * (1 + math.cos(-0.75 * math.pi)))
    assert triplet_weight(99, 100) < triplet_weight(100, 100) == triplet_weight(10**6, 100) == 0.5
    assert triplet_weight(None, 100) == triplet_weight(0, 0) == 0.5
