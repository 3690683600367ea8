import numpy as np
import pytest

from hiera_seg.evaluation import class_table, report, summary_table
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import PathCounts, hierarchy_scores


def scores_of(tree, truth, labels, direct=None):
    counts = PathCounts(tree, 65535)
    counts.add(np.array([labels]), np.array([truth]), direct)
    return hierarchy_scores(counts)


def cells_of(table):
    """Cells of a table's lines, without the rule below its head."""
    lines = table.splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:1] + lines[2:]]


TREE = Hierarchy.from_dict(
    {"flat": ["road", "1e3"], "vehicle": ["car", "bus"]}, levels=["group", "class"]
)


def test_tables_of_a_small_tree():
    scores = scores_of(TREE, truth=[0, 0, 1, 2], labels=[0, 1, 1, 2])
    assert cells_of(summary_table(scores)) == [
        ["level", "mIoU", "mIoU direct", "fwIoU", "mACC", "pACC", "classes scored"],
        ["group", "100.00", "-", "100.00", "100.00", "100.00", "2 of 2"],
        ["class", "66.67", "-", "62.50", "83.33", "75.00", "3 of 4"],
    ]
    assert cells_of(class_table(scores, 1)) == [
        ["class", "IoU", "ACC", "pixels"],
        ["road", "50.00", "50.00", "50.00"],
        ["1e3", "50.00", "100.00", "25.00"],
        ["car", "100.00", "100.00", "25.00"],
        ["bus", "-", "-", "-"],  # no ground truth
    ]


def test_report_has_every_level_and_the_path_numbers():
    direct = [np.array([[4, 5, 5]]), np.array([[0, 2, 0]])]
    text = report(scores_of(TREE, truth=[0, 2, 1], labels=[0, 2, 2], direct=direct))
    assert "level group" in text and "level class" in text
    assert "tree distance 1.333 edges, mistake severity 4.000 edges, consistency 66.67 %" in text


def test_classes_out_of_the_means_are_marked():
    counts = PathCounts(TREE, 65535)
    counts.add(np.array([[0, 1, 2, 2]]), np.array([[0, 0, 1, 2]]))
    scores = hierarchy_scores(counts, unscored=[1], num_void_classes=3)
    assert cells_of(summary_table(scores))[2][1] == "50.00"  # of road 1 / 2 and car 1 / 2
    assert cells_of(summary_table(scores))[2][-1] == "2 of 4"
    names = [row[0] for row in cells_of(class_table(scores, 1))[1:]]
    assert names == ["road", "1e3 *", "car", "bus"]
    text = report(scores)
    assert "mIoU_all 16.67 over 6 of the 7 published classes, 1 not scored above and 3 void" in text
    assert "*: not in the means" in text
    assert "not in the means" not in report(hierarchy_scores(counts))


@pytest.mark.parametrize(("num_leaves", "num_blocks"), [(16, 1), (17, 2), (33, 3), (144, 3)])
def test_many_classes_stand_side_by_side(num_leaves, num_blocks):
    tree = Hierarchy.from_dict([f"class {i}" for i in range(num_leaves)])
    labels = list(range(num_leaves))
    table = class_table(scores_of(tree, labels, labels), 0)
    assert len({len(line) for line in table.splitlines()}) == 1
    head, *rows = cells_of(table)
    assert head.count("IoU") == num_blocks
    assert len(rows) == -(-num_leaves // num_blocks)
    names = [cell for row in rows for cell in row[::4]]
    assert sorted(filter(None, names)) == sorted(tree.leaf_names)
    assert [row[0] for row in rows[:2]] == ["class 0", "class 1"]  # classes run down, not across


def test_nothing_scored_is_all_dashes():
    scores = scores_of(TREE, truth=[65535], labels=[0])
    assert cells_of(summary_table(scores))[1] == ["group", *["-"] * 5, "0 of 2"]


def test_perfect_prediction_has_no_severity():
    text = report(scores_of(TREE, truth=[0, 2], labels=[0, 2]))
    assert "tree distance 0.000 edges, mistake severity -" in text and "nan" not in text
