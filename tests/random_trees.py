"""Random ragged trees: nested dicts, and plain data that knows nothing of ``Hierarchy``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from hiera_seg.hierarchy import Hierarchy


def random_tree(rng: np.random.Generator, depth: int = 4) -> dict:
    """Return a nested dict of 1 to `depth` levels; names repeat below other parents."""
    names = [f"{'wxyz'[depth % 4]}{i}" for i in range(rng.integers(1, 4))]
    inner = [depth > 1 and rng.random() < 0.6 for _ in names]
    return {
        name: random_tree(rng, depth - 1) if deep else None
        for name, deep in zip(names, inner, strict=True)
    }


def random_hierarchy(rng: np.random.Generator, depth: int = 4) -> Hierarchy:
    """Return a random tree whose leaves have any order, so that siblings may be apart."""
    tree = Hierarchy.from_dict(random_tree(rng, depth))
    order = rng.permutation(tree.num_leaves).tolist()
    return tree.with_leaf_order([f"/{tree.paths[leaf]}" for leaf in order])


# Words that YAML, JSON or csv readers like to take for something else, beside ordinary ones.
NAMES = [
    *("car", "sky", "road", "traffic light", "SUV_Pickup-2", "a.b", "x", "y", "other", "body"),
    *("no", "On", "null", "~", "true", "1", "1.5", "1e3", "0x1f", "12:30", "2020-01-01", "=", "<<"),
    *("a: b", "- x", "# x", "a #b", "*a", "&b", "!t", "%d", "@", "`", "?", ":", "|", ">", "..."),
    *("a,b", "{x}", "[y]", '"q"', "it's", "back\\slash", "--", "---", "é", "日本", "🚗", "\ufeffb"),
    *("soft\u00adhyphen", "no\u00a0break", "null\u200bwidth", "y" * 255),
]


@dataclass(frozen=True)
class PlainTree:
    """Nodes in order of appearance: names, index of the parent (None at the top), leaf order."""

    names: list[str]
    parents: list[int | None]
    order: list[int]  # indices of the leaves in the order of their ids

    @property
    def leaves(self) -> list[int]:
        return [i for i in range(len(self.names)) if i not in self.parents]

    def children(self, node: int | None) -> list[int]:
        return [i for i, parent in enumerate(self.parents) if parent == node]

    def chain(self, node: int | None) -> list[int]:
        """Node and its ancestors, the top-level one first."""
        return [] if node is None else [*self.chain(self.parents[node]), node]

    def path(self, node: int) -> str:
        return "/".join(self.names[i] for i in self.chain(node))

    def depth(self, node: int) -> int:
        return len(self.chain(node)) - 1

    def full_path(self, node: int) -> str:
        """The path in a form that cannot be taken for a bare name."""
        path = self.path(node)
        return path if "/" in path else "/" + path

    def leaf_order(self) -> list[str]:
        return [self.full_path(leaf) for leaf in self.order]

    def ids(self) -> list[int]:
        """Indices in the order of the node ids, by the numbering rule as it is written down."""
        place = {leaf: position for position, leaf in enumerate(self.order)}

        def first_leaf(node: int) -> int:
            return min(place[leaf] for leaf in self.leaves if node in self.chain(leaf))

        inner = [i for i in range(len(self.names)) if i not in place]
        return [*self.order, *sorted(inner, key=lambda i: (-self.depth(i), first_leaf(i)))]

    def nested(self, node: int | None = None, use_lists: bool = True) -> object:
        children = self.children(node)
        if use_lists:
            return [
                {self.names[c]: self.nested(c)} if self.children(c) else self.names[c]
                for c in children
            ]
        return {
            self.names[c]: self.nested(c, False) if self.children(c) else None for c in children
        }


@st.composite
def plain_trees(draw: st.DrawFn, unique_names: bool = False, max_nodes: int = 16) -> PlainTree:
    """Draws a tree in depth-first order; names repeat often unless they must not."""
    size = draw(st.integers(1, max_nodes))
    depths = [0]
    for _ in range(size - 1):
        depths.append(draw(st.integers(0, depths[-1] + 1)))
    parents: list[int | None] = []
    latest: dict[int, int] = {}
    for index, depth in enumerate(depths):
        parents.append(latest.get(depth - 1))
        latest[depth] = index
    pool = draw(st.permutations(NAMES))
    few = pool[: draw(st.integers(1, len(pool)))]
    names: list[str] = []
    for index, parent in enumerate(parents):
        taken = {names[i] for i in range(index) if unique_names or parents[i] == parent}
        wanted = draw(st.sampled_from(few))
        names.append(next(name for name in (wanted, *pool) if name not in taken))
    leaves = [i for i in range(size) if i not in parents]
    return PlainTree(names, parents, draw(st.permutations(leaves)))
