"""Random ragged trees against brute force, and round trips through every form."""

import copy
import csv
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy import Hierarchy, as_hierarchy, tree_colors
from tests.random_trees import PlainTree, plain_trees


def built(plain: PlainTree) -> Hierarchy:
    return Hierarchy.from_dict(plain.nested(), leaf_order=plain.leaf_order())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trees")


@given(plain_trees())
def test_numbering_rule(plain):
    h, ids = built(plain), plain.ids()
    assert h.num_nodes == len(plain.names)
    assert h.num_leaves == len(plain.leaves)
    assert h.num_levels == h.height == max(map(plain.depth, plain.leaves)) + 1
    assert h.node_names == tuple(plain.names[i] for i in ids)
    assert h.leaf_names == h.node_names[: h.num_leaves]
    assert h.paths == tuple(plain.path(i) for i in ids)
    assert h.depth.tolist() == [plain.depth(i) for i in ids]
    assert h.parent.tolist() == [
        -1 if plain.parents[i] is None else ids.index(plain.parents[i]) for i in ids
    ]


@given(plain_trees())
def test_relations(plain):
    h, ids = built(plain), plain.ids()
    chains = [[ids.index(i) for i in plain.chain(index)] for index in ids]
    for v, chain in enumerate(chains):
        assert h.path(v) == tuple(chain)
        assert h.ancestors(v) == tuple(reversed(chain))
        assert h.descendants(v) == tuple(u for u, other in enumerate(chains) if v in other)
        assert set(h.children(v)) == {u for u in range(h.num_nodes) if h.parent[u] == v}
        firsts = [min(h.descendants(child)) for child in h.children(v)]
        assert firsts == sorted(firsts)
        for u, other in enumerate(chains):
            common = [a for a, b in zip(chain, other, strict=False) if a == b]
            assert h.lca(u, v) == (common[-1] if common else -1)
            assert h.distance_matrix[u, v] == len(chain) + len(other) - 2 * len(common)
            assert h.ancestor_matrix[v, u] == (u in chain)
    assert set(h.children(-1)) == set(np.flatnonzero(h.parent == -1).tolist())
    assert h.distance_matrix.dtype == np.int16 and h.ancestor_matrix.dtype == bool


@given(plain_trees())
def test_levels(plain):
    h, ids = built(plain), plain.ids()
    leaf_count = h.num_leaves
    for level, name in enumerate(h.level_names):
        standing = [
            v
            for v in range(h.num_nodes)
            if h.depth[v] == level or (v < leaf_count and h.depth[v] < level)
        ]
        for same in (level, level - h.num_levels, name):
            assert h.level_nodes(same).tolist() == standing
        for v in range(h.num_nodes):
            chain = [ids.index(i) for i in plain.chain(ids[v])]
            expected = chain[level] if level < len(chain) else v if v < leaf_count else -1
            assert h.level_ancestor[level, v] == expected
        node_of_leaf = h.level_nodes(level)[h.leaf_to_level(level)]
        assert node_of_leaf.tolist() == h.level_ancestor[level, :leaf_count].tolist()
        start, stop = h.level_slices[level]
        assert np.flatnonzero(h.node_level == level).tolist() == list(range(start, stop))
    assert h.level_slices[-1] == (0, leaf_count)
    for v in range(h.num_nodes):
        assert h.node_level[v] == (h.num_levels - 1 if v < leaf_count else h.depth[v])


@given(plain_trees())
def test_display_names_are_the_shortest_that_are_unique_at_their_level(plain):
    h = built(plain)
    for v, shown in enumerate(h.display_names):
        parts = h.paths[v].split("/")
        others = [h.paths[u] for u in h.level_nodes(int(h.node_level[v])) if u != v]
        suffixes = ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        free = [s for s in suffixes if not any(o == s or o.endswith("/" + s) for o in others)]
        assert shown == (free[0] if free else h.paths[v])
    for level in range(h.num_levels):
        shown = [h.display_names[v] for v in h.level_nodes(level)]
        assert len(set(shown)) == len(shown)


@given(plain_trees())
def test_names_find_their_nodes(plain):
    h = built(plain)
    for v, path in enumerate(h.paths):
        full = path if "/" in path else "/" + path
        assert h.id(full) == h[full] == h.id(v) == h.id("/" + full.lstrip("/")) == v
        name = h.node_names[v]
        same = [u for u in range(h.num_nodes) if h.node_names[u] == name]
        leaves = [u for u in same if u < h.num_leaves]
        inner = [u for u in same if u >= h.num_leaves]
        wanted = leaves if len(leaves) == 1 else inner if len(inner) == 1 else None
        if wanted:
            assert h.id(name) == wanted[0]
        else:
            with pytest.raises(HierarchyError, match="ambiguous"):
                h.id(name)
        for level in range(h.num_levels):
            here = [u for u in same if u in h.level_nodes(level)]
            if len(here) == 1:
                assert h.id(name, level=level) == here[0]
            else:
                with pytest.raises(HierarchyError, match="ambiguous|is not at level"):
                    h.id(name, level=level)


@given(plain_trees(), st.data())
def test_every_form_gives_the_same_tree(folder, plain, data):
    h = built(plain)
    order = plain.leaf_order()
    paths = [plain.path(i) for i in data.draw(st.permutations(range(len(plain.names))))]
    leaf_paths = [plain.path(i) for i in plain.order]
    assert Hierarchy.from_dict(plain.nested(use_lists=False), leaf_order=order) == h
    assert Hierarchy.from_paths(paths, leaf_order=order) == h
    assert Hierarchy.from_paths(leaf_paths) == h  # listed in the order of the ids
    if not any("--" in name for name in plain.names):
        assert Hierarchy.from_paths([p.replace("/", "--") for p in leaf_paths], sep="--") == h
    assert Hierarchy.from_dict(plain.nested()).with_leaf_order(order) == h

    file = folder / "tree.json"
    text = {"tree": plain.nested(use_lists=False), "leaf_order": order}
    file.write_text(json.dumps(text, ensure_ascii=data.draw(st.booleans())), encoding="utf-8")
    assert Hierarchy.load(file) == h

    for name, rows in {
        "path.csv": [["path"], *([path] for path in leaf_paths)],
        "levels.csv": [list(h.level_names), *(path.split("/") for path in leaf_paths)],
    }.items():
        with open(folder / name, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
        assert Hierarchy.load(folder / name) == h


@given(plain_trees(unique_names=True))
def test_parents_give_the_same_tree(folder, plain):
    h = built(plain)
    parent_name = [None if p is None else plain.names[p] for p in plain.parents]
    rows = dict(zip(plain.names, parent_name, strict=True))
    order = [plain.names[leaf] for leaf in plain.order]
    assert Hierarchy.from_parents(rows, leaf_order=order) == h
    with open(folder / "parents.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["parent", "node"], *((p, n) for n, p in rows.items())])
    assert Hierarchy.load(folder / "parents.csv").with_leaf_order(order) == h


@given(plain_trees(), st.data())
def test_round_trips(folder, plain, data):
    levels = data.draw(
        st.lists(
            st.sampled_from(["a", "B2", "no", "1", "x_y", *(f"l{i}" for i in range(16))]),
            min_size=built(plain).num_levels,
            max_size=built(plain).num_levels,
            unique=True,
        )
    )
    name = data.draw(st.sampled_from(["", "no", "street scenes", "1.5"]))
    h = Hierarchy.from_dict(plain.nested(), name=name, levels=levels, leaf_order=plain.leaf_order())
    h.to_yaml(folder / "tree.yaml")
    plain_data = json.loads(json.dumps(h.to_dict()))
    for again in (
        Hierarchy.load(folder / "tree.yaml"),
        Hierarchy.from_dict(**plain_data),
        as_hierarchy(plain_data),
        pickle.loads(pickle.dumps(h)),
        copy.deepcopy(h),
        copy.copy(h),
    ):
        assert again == h and not again != h
        assert hash(again) == hash(h)
        assert (again.name, again.level_names) == (name, tuple(levels))
        assert again.to_dict() == h.to_dict()
        assert str(again) == str(h)


@given(plain_trees(max_nodes=40))
def test_colors_are_distinct(plain):
    h = built(plain)
    colors = tree_colors(h)
    assert colors.shape == (h.num_nodes, 3) and colors.dtype == np.uint8
    assert len(np.unique(colors, axis=0)) == h.num_nodes
    assert np.array_equal(colors, tree_colors(built(plain)))
