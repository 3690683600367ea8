"""Made-up results of the study's runs."""

import numpy as np

from projects.HSSN.study import compare, plan


def confusion(data: str) -> list[list[int]]:
    """100 pixels a leaf: 8 of a leaf are taken for a sibling, 4 for a leaf of another family."""
    leaf, sibling, stranger = some_leaves(data)
    pixels = 100 * np.eye(compare.tree_of(data).num_leaves, dtype=int)
    pixels[[leaf, sibling, stranger], leaf] += [-12, 8, 4]
    return pixels.tolist()


def some_leaves(data: str) -> tuple[int, int, int]:
    """A leaf, a sibling of it, and a leaf of another family."""
    tree = compare.tree_of(data)
    parent = tree.parent[: tree.num_leaves]
    leaf = next(v for v, of in enumerate(parent) if np.sum(parent == of) > 1)
    siblings = np.flatnonzero(parent == parent[leaf])
    return leaf, int(siblings[1]), int(np.flatnonzero(parent != parent[leaf])[0])


def result(planned: plan.Run, miou=(50.0, 40.0, 30.0), noise=0.0) -> dict:
    rng = np.random.default_rng(planned.seed)
    resampled = np.array(miou)[:, None] + noise * rng.standard_normal((3, 200))
    return {
        **planned.as_dict(),
        "metrics": {
            "mIoU": list(miou),
            "mIoU_direct": list(miou),
            "accuracy": [80.0, 70.0, 60.0],
            "consistency": 99.0,
            "tree_distance": 1.5,
            "mistake_severity": 3.0,
            "ece": [1.0, 2.0, 3.0],
        },
        "variants": {"marginal": list(miou), "marginal_path_sum": list(miou)},
        "variant": "marginal",
        "confusion": confusion(planned.data),
        "leaves": list(compare.tree_of(planned.data).display_names)[: len(confusion(planned.data))],
        "boundary": [[[1, 2], [3, 4]]] * 3,
        "bootstrap": resampled.tolist(),
        "levels": ["group", "kind", "class"],
        "seconds_per_iteration": None if planned.weights else 0.5,
        "test_seconds": 200.0,
    }


def finish(runs: list[plan.Run], results: dict) -> None:
    results |= {planned.key: result(planned) for planned in runs}
