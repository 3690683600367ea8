"""An invented evaluation with round numbers, and images for its report."""

import numpy as np
import pytest

from hiera_seg import Hierarchy
from hiera_seg.metrics import PathCounts, collapse_nodes, hierarchy_scores
from hiera_seg.report.images import ReportImage

# Names that would break out of markup, or be taken for it.
EVIL = ["<!--<script>", "<b>bold", "R&D \"lab\" 'x'"]
EVIL_DATASET = "made </script><script>window.broken = 1</script> up"
SIZE = (48, 64)


@pytest.fixture(scope="session")
def street() -> Hierarchy:
    return Hierarchy.from_dict(
        {
            "flat": {"ground": ["road", EVIL[1]]},
            "vehicle": {"four_wheeled": ["car", "truck"], "bicyclist": None},
            EVIL[0]: [EVIL[2], "sky"],
        },
        name="<i>street",
        levels=["group", "kind", "class"],
    )


def matrices_of(nodes: np.ndarray, hierarchy: Hierarchy) -> list[np.ndarray]:
    return [collapse_nodes(nodes, hierarchy, level) for level in range(hierarchy.num_levels)]


@pytest.fixture(scope="session")
def node_counts(street) -> np.ndarray:
    """int64 (N, N), pixels by [predicted, true node]; no truth of "sky"."""
    counts = np.zeros((street.num_nodes, street.num_nodes), np.int64)
    road, car, truck, sky = (street[name] for name in ("road", "car", "truck", "sky"))
    bicyclist = street["bicyclist"]
    counts[road, road] = 900
    counts[car, road] = 100  # a stranger
    counts[car, car] = 50
    counts[truck, car] = 30  # a sibling
    counts[bicyclist, car] = 15  # a cousin
    counts[street["vehicle"], car] = 5  # left above
    counts[sky, truck] = 7
    counts[bicyclist, bicyclist] = 20
    return counts


@pytest.fixture(scope="session")
def evaluation(street, node_counts):
    """What an evaluator writes: summary and confusion matrices."""
    counts = PathCounts(street)
    predicted, true = np.indices(node_counts.shape).reshape(2, -1).repeat(node_counts.flat, axis=1)
    for part in np.array_split(np.stack([predicted, true]), 3, axis=1):
        counts.add(part[:1], part[1:])
    metrics = hierarchy_scores(counts).as_dict()
    summary = {"dataset": EVIL_DATASET, "images": 3, "metrics": metrics}
    return summary, matrices_of(node_counts, street)


@pytest.fixture(scope="session")
def samples(street) -> list[ReportImage]:
    """Left half road, right half car; the truth has trucks on the right, and a void rim."""
    image = np.full((*SIZE, 3), 120, np.uint8)
    labels = np.full(SIZE, street["road"])
    labels[:, SIZE[1] // 2 :] = street["car"]
    truth = np.where(labels == street["car"], street["truck"], labels)
    truth[:4] = 255
    scores = np.stack([np.full(SIZE, value) for value in (0.96, 0.8, 0.52)])
    return [
        ReportImage("first <img src=x onerror=alert(1)>.jpg", image, labels, truth, scores),
        ReportImage("second.jpg", image, labels),
    ]
