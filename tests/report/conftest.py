"""The evaluation and the images that pages are made of."""

from tests.visualization.conftest import evaluation, node_counts, samples, street  # noqa: F401
