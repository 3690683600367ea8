"""The region mutual information loss against its formula in numpy, a node at a time."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import HierarchicalLoss, rmi, rmi_loss
from tests.helpers import value_and_gradient

VOID = 255


def numpy_rmi(logits, labels, hierarchy, ridge=1e-3):
    """By the formula: loops over images, nodes and windows, inverse and determinant of numpy."""
    batch, nodes, height, width = logits.shape
    total = 0.0
    for b in range(batch):
        for v in range(nodes):
            y, p = np.zeros((height, width)), np.full((height, width), 1e-6)
            for i, j in np.ndindex(height, width):
                label = int(labels[b, i, j])
                if label == VOID or (v != label and v in hierarchy.descendants(label)):
                    continue
                y[i, j] = v in hierarchy.ancestors(label)
                p[i, j] += 1 / (1 + np.exp(-float(logits[b, v, i, j])))
            rows = [_rows(_pooled(x)) for x in (y, p)]
            target, score = (x - x.mean(1, keepdims=True) for x in rows)
            eye = ridge * np.eye(9)
            cross = target @ score.T
            rest = target @ target.T - cross @ np.linalg.inv(score @ score.T + eye) @ cross.T
            total += 0.5 * np.linalg.slogdet(rest + eye)[1] / 9
    return total / batch


def _pooled(x):
    rows, columns = ((n - 1) // 3 + 1 for n in x.shape)
    starts = [[max(3 * k - 1, 0) for k in range(n)] for n in (rows, columns)]
    return np.array([[x[i : 3 * k + 2, j : 3 * m + 2].max() for m, j in enumerate(starts[1])]
                     for k, i in enumerate(starts[0])])  # fmt: skip


def _rows(x):
    height, width = x.shape[0] - 2, x.shape[1] - 2
    return np.array([x[i : i + height, j : j + width].ravel() for i in range(3) for j in range(3)])


def blobs(hierarchy, seed, size=(2, 24, 31), leaves_only=False):
    """Labels in patches, as in pictures, with some void; and logits that half agree with them."""
    generator = torch.Generator().manual_seed(seed)
    count = hierarchy.num_leaves if leaves_only else hierarchy.num_nodes
    patches = torch.randint(0, count, (size[0], size[1] // 5 + 1, size[2] // 5 + 1),
                            generator=generator)  # fmt: skip
    labels = patches.repeat_interleave(5, 1).repeat_interleave(5, 2)
    labels = labels[:, : size[1], : size[2]].clone()
    labels[torch.rand(size, generator=generator) < 0.1] = VOID
    logits = torch.randn(size[0], hierarchy.num_nodes, *size[1:], generator=generator).double()
    shown = labels.clamp(max=hierarchy.num_nodes - 1)[:, None]
    return logits.scatter_add(1, shown, torch.full_like(logits, 2.0)), labels


@pytest.fixture(scope="module", params=["cityscapes", "ragged"])
def tree(request):
    if request.param == "cityscapes":
        return Hierarchy.load("cityscapes")
    return Hierarchy.from_dict({"a": None, "b": {"c": ["d", "e"], "f": None}}, name="ragged")


def test_value_is_that_of_the_formula(tree):
    logits, labels = blobs(tree, 0)
    expected = numpy_rmi(logits.numpy(), labels.numpy(), tree)
    assert rmi_loss(logits, labels, tree).item() == pytest.approx(expected, rel=1e-9)
    assert rmi_loss(logits.float(), labels, tree).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [(1, 7, 7), (1, 9, 14), (2, 12, 8)])
def test_sizes_that_the_pooling_does_not_divide(size):
    tree = Hierarchy.from_dict({"a": None, "b": ["c", "d"]})
    logits, labels = blobs(tree, 1, size)
    expected = numpy_rmi(logits.numpy(), labels.numpy(), tree, ridge=0.01)
    assert rmi_loss(logits, labels, tree, ridge=0.01).item() == pytest.approx(expected, rel=1e-9)


def test_gradcheck():
    tree = Hierarchy.from_dict({"a": None, "b": ["c", "d"]})
    logits, labels = blobs(tree, 2, (2, 7, 10))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: rmi_loss(z, labels, tree), logits)


@pytest.mark.parametrize("size", [(2, 12, 15), (1, 3, 4)])
@pytest.mark.parametrize("valid_count", [None, 0.0, 6.5])
def test_all_void_is_zero_with_a_gradient_path(tree, size, valid_count):
    logits, labels = torch.randn(size[0], tree.num_nodes, *size[1:]), torch.full(size, VOID)
    value, gradient = value_and_gradient(rmi_loss, logits, labels, tree, valid_count=valid_count)
    assert value == 0 and gradient.eq(0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_logits_of_void_that_are_not_finite_change_nothing(tree, bad, everywhere):
    """Also where a whole window of the pooling, or a whole image, is void."""
    logits, labels = blobs(tree, 3)
    labels[0, :9] = VOID
    labels[1:] = VOID
    if everywhere:
        labels[:] = VOID
    expected = value_and_gradient(rmi_loss, logits, labels, tree)
    logits.permute(0, 2, 3, 1)[labels == VOID] = bad
    assert all(map(torch.equal, value_and_gradient(rmi_loss, logits, labels, tree), expected))


def test_no_neighbourhood_no_gradient(tree):
    logits, labels = torch.randn(1, tree.num_nodes, 6, 20), torch.zeros(1, 6, 20, dtype=torch.long)
    value, gradient = value_and_gradient(rmi_loss, logits, labels, tree)
    assert value.item() == pytest.approx(tree.num_nodes * 0.5 * np.log(1e-3))
    assert gradient.eq(0).all()


@pytest.mark.parametrize("size", [(0, 9, 9), (2, 0, 9), (2, 9, 0)])
def test_an_empty_batch_is_zero(tree, size):
    logits = torch.zeros(size[0], tree.num_nodes, *size[1:])
    value, _ = value_and_gradient(rmi_loss, logits, torch.zeros(size, dtype=torch.long), tree)
    assert value == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float64(tree, dtype):
    logits, labels = blobs(tree, 7)
    half = logits.to(dtype)
    value, gradient = value_and_gradient(rmi_loss, half, labels, tree)
    expected, exact = value_and_gradient(rmi_loss, half.double(), labels, tree)
    assert value.dtype == torch.float32 and expected.dtype == torch.float64
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    accuracy = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), exact, rtol=accuracy, atol=1e-7)


def test_any_number_of_maps_at_a_time(tree, monkeypatch):
    logits, labels = blobs(tree, 15)
    found = []
    for values in (1, 9 * 88 * 3, 1 << 30):
        monkeypatch.setattr(rmi, "_CPU_VALUES", values)
        found.append(value_and_gradient(rmi_loss, logits, labels, tree))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-14)


class _LargestOutput(TorchDispatchMode):
    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return result


def test_neighbourhoods_of_a_batch_never_exist_at_once():
    """As float64 those of scores alone are twice the logits; with their gradients nine times."""
    tree = Hierarchy.load("cityscapes")
    logits, labels = blobs(tree, 14, (3, 96, 96))
    logits = logits.float().requires_grad_()
    kept = {}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with _LargestOutput() as largest:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            value = rmi_loss(logits, labels, tree)
        value.backward()
    size = logits.numel() * logits.element_size()
    assert size <= largest.bytes < 1.1 * size  # the gradient
    assert sum(kept.values()) < 2 * size


def test_under_autocast(tree):
    logits, labels = blobs(tree, 8)
    expected = rmi_loss(logits.float(), labels, tree)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rmi_loss(logits.float(), labels, tree) == expected


def test_finite_far_out_and_nan_where_logits_are_nan(tree):
    logits, labels = blobs(tree, 9)
    far = (100 * logits.sign()).float()
    assert all(x.isfinite().all() for x in value_and_gradient(rmi_loss, far, labels, tree))
    # The trainer's own check is to report it, with the iteration; not an error of a solver.
    logits[0, 0] = torch.nan
    assert rmi_loss(logits, torch.zeros_like(labels), tree).isnan()


def test_inputs_are_not_changed_and_any_layout_will_do(tree):
    logits, labels = blobs(tree, 10)
    before = logits.clone(), labels.clone()
    value = rmi_loss(logits, labels, tree)
    assert torch.equal(logits, before[0]) and torch.equal(labels, before[1])
    assert rmi_loss(logits.contiguous(memory_format=torch.channels_last), labels, tree) == value
    with torch.inference_mode():
        assert rmi_loss(logits, labels, tree) == value


def test_arguments_are_checked(tree):
    logits, labels = blobs(tree, 12, (1, 9, 9))
    with pytest.raises(ValueError, match=rf"needs {tree.num_nodes}, one channel per node"):
        rmi_loss(logits[:, :-1], labels, tree)
    with pytest.raises(ValueError, match="labels hold 300"):
        rmi_loss(logits, labels.fill_(300), tree)
    with pytest.raises(ValueError, match="ridge must be above 0"):
        rmi_loss(logits, labels.fill_(0), tree, ridge=0)
    with pytest.raises(ValueError, match="valid_count"):
        rmi_loss(logits, labels, tree, valid_count=-1.0)
    with pytest.raises(ValueError, match=r"MODEL\.HIERA_SEG\.RMI: ridge must be a finite number"):
        HierarchicalLoss(tree, [("rmi", 1.0, {"ridge": -1.0})])
