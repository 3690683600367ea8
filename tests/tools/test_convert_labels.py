import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
MODULE = """
from hiera_seg.data import register_hierarchical_dataset
register_hierarchical_dataset(
    "mine", image_root="images", sem_seg_root="labels",
    hierarchy={"ground": ["road", "grass"]}, label_map={1: "ground", 2: "grass", 0: None})
"""


def convert(folder, *options):
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "tools/convert_labels.py"), *options],
        cwd=folder, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip


def test_convert_writes_node_ids_and_names_bad_files(tmp_path):
    (tmp_path / "my_datasets.py").write_text(MODULE)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(tmp_path / folder / "a.png")
    done = convert(tmp_path, "mine", "ids", "--import", "my_datasets", "--leaves")
    assert (done.returncode, done.stdout) == (0, "wrote 1 label files of mine to ids\n")
    assert np.asarray(Image.open(tmp_path / "ids/a.png")).tolist() == [[255, 255, 1]]

    Image.fromarray(np.array([[0, 1, 3]], np.uint8)).save(tmp_path / "labels/a.png")
    failed = convert(tmp_path, "mine", "ids", "--import", "my_datasets")
    assert failed.returncode == 1
    assert failed.stderr == (
        "error: labels/a.png: raw ids [3] are not in the label map of dataset 'mine'; map each to "
        "a node, or to None for void\n"
    )
