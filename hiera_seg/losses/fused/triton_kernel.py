"""Define the Triton kernel of `kernel.launch`; importing this module imports Triton."""

import triton
import triton.language as tl


@triton.jit
def _binary_term(x, gamma, GAMMA: tl.constexpr):
    """Compute the focal binary cross entropy of a negative and its slope."""
    score = tl.sigmoid(x)
    other = 1.0 - score
    entropy = tl.maximum(x, 0.0) - tl.log(tl.maximum(score, other))
    if GAMMA == 0:
        term = entropy
        slope = score
    else:
        if GAMMA == 2:
            focus = score * score
            power = 2.0
        else:
            focus = tl.exp(gamma * tl.log(score))
            power = gamma
        term = entropy * focus
        slope = (other * entropy * power + score) * focus
    return term, slope


@triton.jit
def node_kernel(
    logits,
    index,
    gradient,
    partial,
    order,
    depth_of,
    inner_of,
    first_of,
    last_of,
    weights,
    path,
    positive,
    num_pixels,
    num_nodes,
    image_stride,
    node_stride,
    pixel_stride,
    gamma,
    GAMMA: tl.constexpr,
    CONSISTENT: tl.constexpr,
    WANTS_GRADIENT: tl.constexpr,
    LEVELS: tl.constexpr,
    DEPTHS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum the terms of BLOCK pixels of one image, on a grid of (blocks, images).

    Negatives: children are visited before their parents. ``best[d]`` is the highest logit among
    the finished subtrees at depth d below the current parent, and ``holder[d]`` the node that has
    it: row depth + 1 holds the maximum over a node's descendants. Positives: a running minimum down
    the label's path. The gradient of a node that takes another node's score is added to that
    node's, which the same program has written before; barriers synchronize its threads.
    """
    block = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    pixel = block * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < num_pixels
    columns = image * 0 + num_nodes + 1  # int64, like all offsets
    label = tl.load(index + image * num_pixels + pixel, mask=inside, other=num_nodes)
    known = label != num_nodes  # logits of void are not read: 0 times NaN would be NaN
    first_below = tl.load(first_of + label)
    place_of_label = tl.load(last_of + label)
    start = image * image_stride + pixel.to(tl.int64) * pixel_stride
    total = tl.zeros([BLOCK], dtype=tl.float32)

    rows = tl.arange(0, DEPTHS)[:, None]
    lowest = float("-inf")
    best = tl.full([DEPTHS, BLOCK], lowest, dtype=tl.float32)
    holder = tl.zeros([DEPTHS, BLOCK], dtype=tl.int32)
    for position in range(num_nodes):
        node = tl.load(order + position)
        depth = tl.load(depth_of + node)
        place = start + node.to(tl.int64) * node_stride
        x = tl.load(logits + place, mask=known, other=0.0).to(tl.float32)
        total += tl.where(x != x, x, 0.0)  # maximum and minimum would lose a NaN
        below = (first_below <= position) & (position <= place_of_label)  # or the label itself
        above = (tl.load(first_of + node) <= place_of_label) & (place_of_label < position)
        weight = tl.where(below | above, 0.0, tl.load(weights + node))
        taken = tl.zeros([BLOCK], dtype=tl.int32) + node
        if CONSISTENT:
            highest = tl.max(tl.where(rows == depth + 1, best, lowest), axis=0)
            highest_holder = tl.sum(tl.where(rows == depth + 1, holder, 0), axis=0)
            taken = tl.where(x >= highest, taken, highest_holder)
            x = tl.maximum(x, highest)
            beside = tl.max(tl.where(rows == depth, best, lowest), axis=0)
            beside_holder = tl.sum(tl.where(rows == depth, holder, 0), axis=0)
            first = tl.where(x > beside, taken, beside_holder)
            high = tl.maximum(x, beside)
            holder = tl.where(rows == depth, first[None, :], holder)
            best = tl.where(rows == depth, high[None, :], best)
            best = tl.where(rows == depth + 1, lowest, best)
        term, slope = _binary_term(x, gamma, GAMMA)
        total += term * weight
        if WANTS_GRADIENT:
            slope = slope * weight
            own = tl.where(taken == node, slope, 0.0)
            tl.store(gradient + place, own, mask=inside)
            if CONSISTENT:
                if tl.load(inner_of + node) != 0:
                    tl.debug_barrier()
                    passed = known & (taken != node) & (weight != 0.0)
                    target = gradient + start + taken.to(tl.int64) * node_stride
                    before = tl.load(target, mask=passed, other=0.0).to(tl.float32)
                    tl.store(target, before + slope, mask=passed)
                    tl.debug_barrier()

    running = tl.full([BLOCK], float("inf"), dtype=tl.float32)
    taken = tl.zeros([BLOCK], dtype=tl.int32)
    for level in tl.static_range(LEVELS):
        node = tl.load(path + level * columns + label)
        weight = tl.load(positive + level * columns + label)
        x = tl.load(logits + start + node.to(tl.int64) * node_stride, mask=known, other=0.0)
        x = x.to(tl.float32)
        total += tl.where(x != x, x, 0.0)
        if CONSISTENT:
            taken = tl.where(x <= running, node, taken)
            running = tl.minimum(x, running)
        else:
            taken = node
            running = x
        term, slope = _binary_term(-running, gamma, GAMMA)
        total += term * weight
        if WANTS_GRADIENT:
            tl.debug_barrier()
            counts = known & (weight != 0.0)
            target = gradient + start + taken.to(tl.int64) * node_stride
            before = tl.load(target, mask=counts, other=0.0).to(tl.float32)
            tl.store(target, before - slope * weight, mask=counts)
    total = tl.where(inside, total, 0.0)
    tl.store(partial + image * tl.num_programs(0) + block, tl.sum(total, axis=0))
