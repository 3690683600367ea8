"""The html report: its numbers, its images, and that it is one safe file."""

import base64
import json
import re
import struct

import numpy as np
import pytest

from hiera_seg import Hierarchy
from hiera_seg.errors import ConfigError
from hiera_seg.report.data import curve_data, level_data, relations
from hiera_seg.report.images import ReportImage, encode_runs, image_data
from hiera_seg.report.page import require_plotly, write_report
from tests.helpers import report_data


def test_relatives_are_told_by_their_lowest_common_ancestor(street):
    for level in range(street.num_levels):
        nodes = np.asarray(street.level_nodes(level))
        kinds = relations(street, nodes)
        for i, u in enumerate(nodes):
            for j, v in enumerate(nodes):
                common = street.lca(int(u), int(v))
                if u == v:
                    expected = 0
                elif common < 0:
                    expected = 3
                else:
                    expected = 1 if common == street.parent[u] == street.parent[v] else 2
                assert kinds[i, j] == expected, (street.paths[u], street.paths[v])


def test_scores_and_kinds_of_a_level(street, evaluation):
    level = level_data(evaluation[1][2], street, 2)
    car = level["nodes"].index(street["car"])
    assert level["pixels"][car] == 100 and level["predicted"][car] == 150
    assert level["kinds"][car] == [50, 30, 15, 0, 5]
    assert level["iou"][car] == pytest.approx(50 / 200) and level["acc"][car] == 0.5
    road, sky = level["nodes"].index(street["road"]), level["nodes"].index(street["sky"])
    assert level["kinds"][road] == [900, 0, 0, 100, 0]
    assert level["iou"][sky] is None and level["pixels"][sky] == 0  # not in the ground truth
    assert level["cells"][0] == [road, car, 100] and level["cells_left_out"] == 0
    group = level_data(evaluation[1][0], street, 0)
    vehicle = group["nodes"].index(street["vehicle"])
    assert group["kinds"][vehicle] == [120, 0, 0, 7, 0]  # what is left above is right here


def test_curves_of_a_resumed_and_killed_run():
    lines = [
        json.dumps({"iteration": 9, "total_loss": 3.0, "loss_a": 2.0, "lr": 0.1}),
        json.dumps({"iteration": 19, "total_loss": 2.0, "sem_seg/mIoU_group": 50.0}),
        json.dumps({"iteration": 19, "total_loss": 1.5, "sem_seg/mIoU_class": float("nan")}),
        json.dumps({"iteration": 19, "sem_seg/mIoU_group": 55.0, "sem_seg/IoU-blossom": 9.0}),
        '{"iteration": 29, "total_lo',
        "",
        "[]",
    ]
    curves = curve_data(lines, ["group", "class"])
    assert [curve["name"] for curve in curves["losses"]] == ["total_loss", "loss_a"]
    assert curves["losses"][0] == {"name": "total_loss", "x": [10, 20], "y": [3.0, 1.5]}
    assert curves["miou"] == [{"name": "group", "x": [20], "y": [55.0]}]
    (miou,) = curve_data(lines, ["group", "class"], max_iter=19)["miou"]
    assert miou["x"] == [19]
    (miou,) = curve_data(lines, ["group"], max_iter=5)["miou"]  # the run was longer
    assert miou["x"] == [20]
    assert curve_data([], ["class"]) == {"losses": [], "miou": []}


def test_curves_are_those_of_the_last_run_in_a_folder():
    def line(iteration, **values):
        return json.dumps({"iteration": iteration, **values})

    old = [line(i, total_loss=1.0, **{"sem_seg/mIoU_class": 90.0}) for i in range(19, 200, 20)]
    # what of one writing is of an earlier iteration may come behind the rest
    new = [
        line(19, total_loss=5.0),
        line(14, **{"sem_seg/mIoU_class": 7.0}),
        line(39, total_loss=4.0),
    ]
    curves = curve_data([*old, *new], ["class"], max_iter=200)
    assert curves["losses"] == [{"name": "total_loss", "x": [20, 40], "y": [5.0, 4.0]}]
    assert curves["miou"] == [{"name": "class", "x": [15], "y": [7.0]}]


def test_long_curves_are_thinned_and_keep_their_end():
    lines = [json.dumps({"iteration": i, "total_loss": i}) for i in range(25_000)]
    (curve,) = curve_data(lines, ["class"])["losses"]
    assert len(curve["x"]) <= 1000 and curve["x"][-1] == 25_000


def decode_runs(text, size):
    numbers, value, shift = [], 0, 0
    for byte in base64.b64decode(text):
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(value)
            value = shift = 0
    labels = np.repeat(numbers[::2], numbers[1::2])
    assert labels.size == size
    return labels - 1


@pytest.mark.parametrize("num_nodes", [3, 1000])
def test_label_maps_come_back_from_runs(num_nodes):
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, num_nodes + 2, (13, 17)).repeat(9, axis=1)
    decoded = decode_runs(encode_runs(labels, num_nodes), labels.size)
    expected = np.where(labels < num_nodes, labels, -1).ravel()
    np.testing.assert_array_equal(decoded, np.where(expected < 0, -1, expected))


def test_images_are_reduced_and_scores_are_of_the_pixels_that_are_kept(street):
    height, width = 300, 900
    labels = np.tile(np.arange(width) // 100 % street.num_leaves, (height, 1))
    scores = np.tile(np.arange(width) / width, (street.num_levels, height, 1))
    sample = ReportImage("a", np.zeros((height, width, 3), np.uint8), labels, scores=scores)
    data = image_data(sample, street, 450)
    assert (data["width"], data["height"], data["truth"]) == (450, 150, None)
    kept = decode_runs(data["labels"], 450 * 150).reshape(150, 450)
    np.testing.assert_array_equal(kept[0], labels[0, 1::2])
    stride, unit = data["scores"]["stride"], data["scores"]["unit"]
    values = np.frombuffer(base64.b64decode(data["scores"]["bytes"]), np.uint8)
    row = values.reshape(street.num_levels, -(-150 // stride), -1)[1, 2] * unit
    np.testing.assert_allclose(row, scores[0, 0, 1::2][::stride], atol=unit / 2 + 1e-9)
    (jpeg_width,) = struct.unpack(">H", base64.b64decode(data["jpeg"]).split(b"\xff\xc0")[1][5:7])
    assert jpeg_width == 450


def test_scores_above_one_and_unknown_ones(street):
    scores = np.zeros((street.num_levels, 2, 2))
    scores[0, 0, 0], scores[1, 0, 0] = 2.5, np.nan
    sample = ReportImage("a", np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), int), scores=scores)
    data = image_data(sample, street)["scores"]
    values = np.frombuffer(base64.b64decode(data["bytes"]), np.uint8)
    assert values[0] * data["unit"] == pytest.approx(2.5) and values[4] == 255


def test_the_file_holds_everything_and_names_stay_text(street, evaluation, samples, tmp_path):
    pytest.importorskip("plotly")
    path = write_report(tmp_path / "new" / "r.html", street, *evaluation, images=samples)
    page = path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["r.html"]
    assert 1e6 < path.stat().st_size < 8e6
    ours = page.replace(require_plotly(), "")
    assert len(ours) < len(page) - 1e6 and not re.search(r"https?://|(src|href)=.//", ours)
    assert "default-src 'none'" in page and "<i>street" not in page
    # our scripts, plotly's and the data: no name has opened another one
    assert page.count("</script>") == 8 and "window.broken" in page
    data = report_data(path)
    assert data["tree"]["display"][street["<b>bold"]] == "<b>bold"
    assert data["images"][0]["name"] == samples[0].name and data["images"][1]["scores"] is None


def test_many_nodes_fit(tmp_path):
    pytest.importorskip("plotly")
    tree = {f"g{i}": {f"k{i}_{j}": [f"c{i}_{j}_{k}" for k in range(10)] for j in range(10)}
            for i in range(10)}  # fmt: skip
    big = Hierarchy.from_dict(tree, levels=["group", "kind", "class"])
    rng = np.random.default_rng(0)
    matrices = []
    for level in range(3):
        size = len(big.level_nodes(level))
        matrices.append(rng.integers(0, 50, (size + 1, size)))
    labels = rng.integers(0, 1000, (480, 640))  # the worst case: every pixel is a run
    image = rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)
    noise = ReportImage("noise", image, labels, labels, rng.random((3, 480, 640)))
    summary = {"dataset": "big", "images": 1, "metrics": {}}
    path = write_report(tmp_path / "r.html", big, summary, matrices, images=[noise] * 8)
    assert path.stat().st_size < 15e6
    levels = report_data(path)["levels"]
    assert len(levels[2]["cells"]) == 20_000 and levels[2]["cells_left_out"] > 900_000


def test_a_file_that_cannot_be_written_is_named(street, evaluation, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/r.html cannot be written"):
        write_report(tmp_path / "file" / "r.html", street, *evaluation)


def test_without_plotly_the_remedy_is_named(street, evaluation, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ConfigError, match="pip install plotly"):
        write_report(tmp_path / "r.html", street, *evaluation)
    assert not any(tmp_path.iterdir())
