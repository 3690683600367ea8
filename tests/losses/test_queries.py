"""Matching and losses of queries, against loops over queries, segments, nodes and points."""

import itertools
import logging
import math

import pytest
import torch
from torch.nn import functional as F

from hiera_seg import Hierarchy
from hiera_seg.losses import QUERY_OPTIONS, QueryLoss, tree_min_loss
from hiera_seg.losses.queries.loss import _warn_once, match
from hiera_seg.losses.queries.masks import mask_bce, mask_costs, mask_dice, point_targets

TREE = Hierarchy.from_dict(
    {
        "flat": {"ground": ["road", "pavement"]},
        "vehicle": {"four_wheeled": ["car", "truck"], "bicyclist": None},
        "sky": None,
    }
)
VOID = 255
CAR, TRUCK, ROAD, SKY = (TREE.id(name) for name in ("car", "truck", "road", "sky"))
VEHICLE = TREE.id("vehicle")


def option(name):
    return QUERY_OPTIONS[name](TREE)


def query_loss(name="leaf_softmax", **options):
    return QueryLoss(option(name), ignore_label=VOID, **{"num_points": 200, **options})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class TestLeafSoftmax:
    def test_scores_of_parents_are_sums_of_leaf_probabilities(self):
        logits = torch.randn(2, 3, TREE.num_leaves + 1, dtype=torch.float64)
        scores = option("leaf_softmax").node_scores(logits)
        probabilities = logits.softmax(-1)
        for node in range(TREE.num_nodes):
            leaves = [v for v in TREE.descendants(node) if v < TREE.num_leaves]
            torch.testing.assert_close(scores[..., node], probabilities[..., leaves].sum(-1))

    def test_leaves_are_trained_by_plain_cross_entropy(self):
        logits = torch.randn(5, TREE.num_leaves + 1, dtype=torch.float64)
        labels = torch.tensor([0, 3, -1, 2, -1])
        weight = torch.ones(TREE.num_leaves + 1, dtype=torch.float64)
        weight[-1] = 0.1
        targets = labels.where(labels >= 0, torch.tensor(TREE.num_leaves))
        expected = F.cross_entropy(logits, targets, weight, reduction="sum")
        torch.testing.assert_close(option("leaf_softmax").loss(logits, labels, 0.1), expected)

    def test_an_inner_label_is_as_likely_as_its_leaves_together(self):
        logits = torch.randn(1, TREE.num_leaves + 1, dtype=torch.float64, requires_grad=True)
        loss = option("leaf_softmax").loss(logits, torch.tensor([VEHICLE]), 0.1)
        bicyclist = TREE.id("bicyclist")
        likely = logits.softmax(-1)[0, [CAR, TRUCK, bicyclist]].sum()
        torch.testing.assert_close(loss, -likely.log())
        loss.backward()
        assert logits.grad.isfinite().all()
        assert (logits.grad[0, [CAR, TRUCK, bicyclist]] < 0).all()


class TestNodeSigmoid:
    def test_matched_queries_are_trained_by_tree_min_on_their_paths(self):
        logits = torch.randn(3, TREE.num_nodes, dtype=torch.float64)
        labels = [CAR, VEHICLE, SKY]
        expected = sum(
            tree_min_loss(
                row[None, :, None, None], torch.tensor([[[label]]]), TREE, normalize="sum"
            )
            for row, label in zip(logits, labels, strict=True)
        )
        found = option("node_sigmoid").loss(logits, torch.tensor(labels), 0.1)
        torch.testing.assert_close(found, expected / TREE.num_levels)

    def test_without_a_segment_every_node_is_negative(self):
        logits = torch.randn(2, TREE.num_nodes, dtype=torch.float64)
        expected = 0.0
        for row, node in itertools.product(logits, range(TREE.num_nodes)):
            highest = max(row[v].item() for v in TREE.descendants(node))
            expected += 0.3 * math.log1p(math.exp(highest))
        found = option("node_sigmoid").loss(logits, torch.tensor([-1, -1]), 0.3)
        assert found.item() == pytest.approx(expected / TREE.num_levels)

    def test_a_label_scores_as_its_weakest_ancestor(self):
        logits = torch.randn(4, TREE.num_nodes)
        found = option("node_sigmoid").label_scores(logits, torch.tensor([CAR, VEHICLE]))
        for q in range(4):
            for column, label in enumerate((CAR, VEHICLE)):
                expected = min(logits[q, v].sigmoid().item() for v in TREE.ancestors(label))
                assert found[q, column].item() == pytest.approx(expected)

    def test_starts_with_few_positive_nodes(self):
        predictor = torch.nn.Linear(8, TREE.num_nodes)
        option("node_sigmoid").reset_predictor(predictor)
        assert predictor(torch.zeros(8)).sigmoid().allclose(torch.tensor(0.05))


class TestMaskTerms:
    def test_points_of_ancestors_and_descendants_do_not_count(self):
        segments = torch.tensor([CAR, VEHICLE])
        points = torch.tensor([CAR, TRUCK, VEHICLE, SKY])
        targets = point_targets(segments, points, TREE, torch.float32)
        assert targets.inside.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
        assert targets.known.tolist() == [[1, 1, 0, 1], [0, 0, 1, 1]]

    def test_bce_and_dice_are_those_of_loops(self):
        logits = torch.randn(2, 6, dtype=torch.float64, generator=generator())
        segments = torch.tensor([CAR, VEHICLE])
        points = torch.tensor([[CAR, CAR, SKY, VEHICLE, ROAD, TRUCK]] * 2)
        targets = point_targets(segments, points, TREE, torch.float64)
        for row, known in enumerate(([0, 1, 2, 4, 5], [2, 3, 4])):
            truth = [float(points[row, p] == segments[row]) for p in known]
            scores = [logits[row, p].sigmoid().item() for p in known]
            bce = -sum(
                t * math.log(s) + (1 - t) * math.log(1 - s)
                for t, s in zip(truth, scores, strict=True)
            )
            overlap = sum(t * s for t, s in zip(truth, scores, strict=True))
            dice = 1 - (2 * overlap + 1) / (sum(truth) + sum(scores) + 1)
            assert mask_bce(logits, targets)[row].item() == pytest.approx(bce / len(known))
            assert mask_dice(logits, targets)[row].item() == pytest.approx(dice)

    def test_costs_are_the_losses_of_every_pair(self):
        logits = torch.randn(3, 5, 40, dtype=torch.float64, generator=generator())
        points = torch.randint(TREE.num_nodes, (40,), generator=generator())
        segments = points.unique()
        targets = point_targets(segments, points, TREE, torch.float64)
        bce, dice = mask_costs(logits, targets)
        assert bce.shape == (3, 5, len(segments))
        for column in range(len(segments)):
            one = type(targets)(targets.inside[column], targets.known[column])
            torch.testing.assert_close(bce[..., column], mask_bce(logits, one))
            torch.testing.assert_close(dice[..., column], mask_dice(logits, one))


class TestMatcher:
    @pytest.mark.parametrize("shape", [(4, 3), (3, 4)])
    def test_finds_the_assignment_of_least_cost(self, shape):
        costs = torch.randn(5, *shape, generator=generator())
        found = match(costs)
        assert found.shape == (5, 2, 3)
        for cost, (rows, columns) in zip(costs, found, strict=True):
            best = min(
                sum(cost[q, s] for q, s in zip(queries, segments, strict=True))
                for queries in itertools.permutations(range(shape[0]), 3)
                for segments in itertools.combinations(range(shape[1]), 3)
            )
            assert cost[rows, columns].sum().item() == pytest.approx(best.item())
            assert len(set(rows.tolist())) == len(set(columns.tolist())) == 3

    def test_costs_that_are_not_finite_are_avoided_with_one_warning(self, caplog):
        costs = torch.tensor([[[1.0, math.nan], [math.inf, 3.0], [2.0, -math.inf]]])
        before = costs.clone()
        _warn_once.cache_clear()
        with caplog.at_level(logging.WARNING):
            found = [match(costs) for _ in range(3)]
        assert len(caplog.records) == 1 and "not finite" in caplog.text
        assert found[0].tolist() == [[[0, 1], [0, 1]]]
        assert torch.equal(costs, before) or costs.isnan().sum() == before.isnan().sum()

    def test_costs_that_are_not_finite_are_above_the_highest_however_high(self):
        for highest in (-3e38, -5.0, 0.0, 3e6, 3e38):
            costs = torch.tensor([[[math.nan, highest, math.inf]]])
            assert match(costs).tolist() == [[[0], [1]]], highest

    def test_nothing_finite_at_all_still_matches(self):
        assert match(torch.full((1, 3, 2), math.nan)).shape == (1, 2, 2)


def perfect(labels, name="leaf_softmax", queries=5, scale=30.0):
    """Logits that say exactly what an image of leaf labels shows, queries in reversed order."""
    masks = torch.full((1, queries, *labels.shape[1:]), -scale)
    if name == "leaf_softmax":
        classes = torch.zeros(1, queries, TREE.num_leaves + 1)
        classes[..., -1] = scale
    else:
        classes = torch.full((1, queries, TREE.num_nodes), -scale)
    for i, label in enumerate(labels[labels != VOID].unique().tolist()):
        query = queries - 1 - i
        masks[0, query][labels[0] == label] = scale
        if name == "leaf_softmax":
            classes[0, query, label] = 2 * scale
        else:
            classes[0, query, TREE.ancestors(label)] = scale
    return classes, masks


def blocks():
    """(1, 16, 24): car, sky and road side by side, void at the bottom."""
    labels = torch.tensor([CAR, SKY, ROAD]).repeat_interleave(8).expand(1, 16, 24).clone()
    labels[:, 12:] = VOID
    return labels


@pytest.mark.parametrize("name", QUERY_OPTIONS)
class TestQueryLoss:
    def test_what_the_image_shows_costs_nothing_in_any_order(self, name):
        labels = blocks()
        classes, masks = perfect(labels, name)
        losses = query_loss(name)([classes], [masks], labels, generator=generator())
        assert losses["class"].item() < 1e-4
        # Points on the border of two masks that are equally sure lie between them
        assert losses["mask"].item() < 10 and losses["dice"].item() < 0.5
        wrong = query_loss(name)([-classes], [-masks], labels, generator=generator())
        assert all(wrong[key] > 20 * losses[key] for key in ("class", "mask"))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
    def test_labels_of_other_integer_types(self, name, dtype):
        classes, masks = perfect(blocks(), name)
        expected = query_loss(name)([classes], [masks], blocks(), generator=generator())
        labels = blocks().to(dtype)
        assert query_loss(name)([classes], [masks], labels, generator=generator()) == expected

    def test_void_is_nowhere_to_be_seen(self, name):
        labels = blocks()
        classes, masks = perfect(labels, name)
        changed = masks.clone()
        first = query_loss(name)([classes], [masks], labels, generator=generator())
        for factor in (-1.0, math.nan, math.inf):
            changed[:, :, 14:] *= factor  # beyond the reach of interpolation from valid pixels
            second = query_loss(name)([classes], [changed], labels, generator=generator())
            for key in first:
                assert torch.equal(first[key], second[key])

    def test_images_of_void_are_zeros_with_a_gradient_path(self, name):
        head = query_loss(name)
        classes = torch.randn(2, 5, head.classes.num_logits, requires_grad=True)
        masks = torch.randn(2, 5, 4, 6, requires_grad=True)
        losses = head([classes], [masks], torch.full((2, 16, 24), VOID))
        assert losses["mask"].item() == losses["dice"].item() == losses["class"].item() == 0
        sum(loss.sum() for loss in losses.values()).backward()
        assert classes.grad.eq(0).all() and masks.grad.eq(0).all()

    def test_an_image_of_void_adds_nothing_to_another(self, name):
        labels = torch.cat([blocks(), torch.full((1, 16, 24), VOID)])
        head = query_loss(name)
        classes = torch.randn(2, 5, head.classes.num_logits, requires_grad=True)
        masks = torch.randn(2, 5, 4, 6, requires_grad=True)
        with torch.no_grad():
            classes[1], masks[1] = math.nan, math.inf
        losses = head([classes], [masks], labels, generator=generator())
        alone = head([classes[:1]], [masks[:1]], labels[:1], generator=generator())
        for key, loss in losses.items():
            assert torch.equal(loss, alone[key])
        sum(loss.sum() for loss in losses.values()).backward()
        assert masks.grad[0].abs().sum() > 0 and masks.grad[1].abs().sum() == 0
        assert classes.grad[0].abs().sum() > 0 and classes.grad[1].abs().sum() == 0

    def test_every_layer_is_matched_on_its_own(self, name):
        labels = blocks()
        classes, masks = perfect(labels, name)
        order = torch.tensor([3, 0, 4, 1, 2])
        losses = query_loss(name)(
            [classes, classes[:, order]], [masks, masks[:, order]], labels, generator=generator()
        )
        assert losses["class"].shape == (2,) and (losses["class"] < 1e-4).all()
        assert (losses["dice"] < 0.5).all()

    def test_more_segments_than_queries_train_the_cheapest(self, name):
        labels = blocks()
        classes, masks = perfect(labels, name, queries=3)
        losses = query_loss(name)([classes[:, 1:]], [masks[:, 1:]], labels, generator=generator())
        assert losses["class"].item() < 1e-4 and losses["dice"].item() < 0.5

    def test_two_processes_with_one_denominator_equal_one(self, name):
        """Images of one label: then the points, and with them the losses, are the same."""
        labels = torch.stack([torch.full((8, 8), label) for label in (CAR, VOID, SKY, ROAD)])
        head = query_loss(name)
        classes = torch.randn(4, 4, head.classes.num_logits, generator=generator())
        masks = torch.randn(4, 4, 1, 1, generator=generator()).expand(-1, -1, 8, 8)
        expected = head([classes], [masks], labels)
        parts = [slice(0, 2), slice(2, 4)]  # of one segment and of two
        counts = [head.normalizers(head.segments(labels[part]), 4) for part in parts]
        shared = sum(counts) / 2
        found = [head([classes[p]], [masks[p]], labels[p], normalizers=shared) for p in parts]
        for key, loss in expected.items():
            torch.testing.assert_close(sum(x[key] for x in found) / 2, loss)
        each = [head([classes[p]], [masks[p]], labels[p])["mask"] for p in parts]
        assert not torch.allclose(sum(each) / 2, expected["mask"])

    def test_half_precision_logits_are_computed_in_float32(self, name):
        labels = blocks()
        head = query_loss(name)
        classes = torch.randn(1, 5, head.classes.num_logits).bfloat16()
        masks = torch.randn(1, 5, 4, 6).bfloat16()
        expected = head([classes.float()], [masks.float()], labels, generator=generator())
        with torch.autocast("cpu", torch.bfloat16):
            found = head([classes], [masks], labels, generator=generator())
        for key, loss in found.items():
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss, expected[key])

    def test_the_mask_loss_is_the_mean_over_points_of_constant_masks(self, name):
        """One segment that fills the image, masks that are constant: no matter which points."""
        head = query_loss(name, class_weight=0.0)
        masks = torch.tensor([0.7, -2.0])[None, :, None, None].expand(1, 2, 8, 8)
        classes = torch.randn(1, 2, head.classes.num_logits)
        losses = head([classes], [masks], torch.full((1, 8, 8), CAR))
        score = 1 / (1 + math.exp(-0.7))
        assert losses["mask"].item() == pytest.approx(-5 * math.log(score))
        dice = 1 - (2 * 200 * score + 1) / (200 * score + 200 + 1)
        assert losses["dice"].item() == pytest.approx(5 * dice, rel=1e-5)


def test_the_class_loss_is_the_weighted_mean_over_queries():
    labels = torch.full((1, 8, 8), CAR)
    classes = torch.randn(1, 4, TREE.num_leaves + 1)
    masks = torch.full((1, 4, 8, 8), -9.0)
    masks[:, 2] = 9.0
    losses = query_loss()([classes], [masks], labels)
    targets = torch.tensor([[TREE.num_leaves] * 2 + [CAR] + [TREE.num_leaves]])
    weight = torch.ones(TREE.num_leaves + 1)
    weight[-1] = 0.1
    expected = F.cross_entropy(classes.transpose(1, 2), targets, weight)  # as Mask2Former
    torch.testing.assert_close(losses["class"][0], 2 * expected)
