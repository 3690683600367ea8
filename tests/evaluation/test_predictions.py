import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.data.datasets.cityscapes import CLASSES
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.evaluation import evaluate_predictions
from hiera_seg.evaluation.predictions import read_label_map
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import PathCounts, hierarchy_scores

TREE = Hierarchy.from_dict({"flat": ["road", "path"], "vehicle": ["car", "bus"]}, name="toy")
OWN = {10: "road", 20: "path", 30: "car", 40: "bus", 50: "vehicle", 0: None}
TRUTH = {
    "a/x": [[10, 10, 20, 30], [40, 50, 0, 30]],
    "b/x": [[30, 30, 30, 30], [20, 20, 20, 0]],
    "b/y": [[10, 20, 30, 40], [40, 40, 40, 10]],
}
# 0 where the truth is known is a prediction of void; 50 is right at the coarse level only.
PREDICTED = {
    "a/x": [[10, 20, 20, 40], [50, 30, 10, 0]],
    "b/x": [[30, 30, 10, 50], [20, 0, 0, 0]],
    "b/y": [[10, 20, 40, 40], [40, 40, 30, 20]],
}


@pytest.fixture
def toy(tmp_path):
    for key, values in TRUTH.items():
        for root, array in (("images", np.zeros((2, 4, 3))), ("labels", np.array(values))):
            path = tmp_path / root / f"{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
    register_hierarchical_dataset(
        "toy", hierarchy=TREE, label_map=OWN, image_root=str(tmp_path / "images"),
        sem_seg_root=str(tmp_path / "labels"),
    )  # fmt: skip
    yield tmp_path
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove("toy")


def write(folder, kind="png", ids=None, suffix="", flat=False):
    for key, values in PREDICTED.items():
        values = np.array(values)
        if ids is not None:
            values = np.vectorize(ids.get)(values)
        name = key.replace("/", "_") if flat else key
        path = folder / f"{name}{suffix}.{'npy' if kind == 'npy' else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "npy":
            np.save(path, values)
        elif kind == "palette":
            image = Image.fromarray(values.astype(np.uint8), "P")
            image.putpalette([(7 * i) % 256 for i in range(768)])
            image.save(path)
        else:
            Image.fromarray(values.astype(np.uint16 if kind == "png16" else np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def expected():
    """IoU by loops over pixels; what is predicted as void or above a level misses its class."""
    node = {raw: None if name is None else TREE[name] for raw, name in OWN.items()}
    pairs = [
        (node[p], node[t])
        for key in TRUTH
        for p, t in zip(np.ravel(PREDICTED[key]), np.ravel(TRUTH[key]), strict=True)
        if node[t] is not None
    ]
    result = {}
    for level, name in enumerate(TREE.level_names):
        nodes = set(TREE.level_nodes(level).tolist())

        def at_level(v, nodes=nodes):
            return next((a for a in TREE.ancestors(v) if a in nodes), None) if v is not None else v

        at = [(at_level(p), at_level(t)) for p, t in pairs if at_level(t) is not None]
        ious = []
        for v in nodes:
            union = sum(v in pair for pair in at)
            ious.append(100 * sum(pair == (v, v) for pair in at) / union)
        result[f"mIoU_{name}"] = np.mean(ious)
    return result


def check(results, expected):
    assert {key: results["sem_seg"][key] for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["png", "png16", "palette", "npy"])
def test_kinds_of_files(toy, expected, kind):
    check(evaluate_predictions("toy", write(toy / "out", kind)), expected)


def test_ids_of_their_own(toy, expected):
    ids = {raw: index + 100 for index, raw in enumerate(OWN)}
    folder = write(toy / "out", ids=ids)
    own = {ids[raw]: name for raw, name in OWN.items()}
    check(evaluate_predictions("toy", folder, label_map=own), expected)
    file = toy / "ids.yaml"
    file.write_text("\n".join(f"{key}: {value or 'null'}" for key, value in own.items()))
    check(evaluate_predictions("toy", folder, label_map=file), expected)
    nodes = {raw: 255 if name is None else TREE[name] for raw, name in OWN.items()}
    folder = write(toy / "nodes", ids=nodes)
    check(evaluate_predictions("toy", folder, label_map="node"), expected)


def test_a_suffix_and_folders_that_tell_equal_stems_apart(toy, expected):
    folder = write(toy / "out", suffix="_pred")
    write(folder / "old", suffix="_old")
    check(evaluate_predictions("toy", folder, suffix="_pred"), expected)
    with pytest.raises(DatasetError, match=r"3 of 3 images.*--suffix _(old|pred)"):
        evaluate_predictions("toy", folder)


def test_the_title_of_the_tables_omits_a_tree_without_a_name(toy, caplog):
    folder = write(toy / "out")
    with caplog.at_level("INFO"):
        evaluate_predictions("toy", folder)
        assert "sem_seg on toy, tree toy, 3 images:" in caplog.text
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.remove("toy")
        register_hierarchical_dataset(
            "toy", hierarchy={"flat": ["road", "path"], "vehicle": ["car", "bus"]},
            label_map=OWN, image_root=str(toy / "images"), sem_seg_root=str(toy / "labels"),
        )  # fmt: skip
        evaluate_predictions("toy", folder)
    assert "sem_seg on toy, 3 images:" in caplog.text


def test_problems_are_named(toy):
    folder = write(toy / "out")
    (folder / "b/y.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 images.*b/y\.png"):
        evaluate_predictions("toy", folder)
    Image.fromarray(np.full((2, 4), 77, np.uint8)).save(folder / "b/y.png")
    with pytest.raises(DatasetError, match=r"b/y\.png.*77.*'toy'.*--label-map"):
        evaluate_predictions("toy", folder)
    Image.fromarray(np.full((4, 2), 10, np.uint8)).save(folder / "b/y.png")
    with pytest.raises(DatasetError, match=r"out/b/y\.png.*4 x 2.*2 x 4"):
        evaluate_predictions("toy", folder)
    np.save(folder / "b/y.npy", np.zeros((2, 4)))
    with pytest.raises(DatasetError, match=r"two predictions.*b/y\.npy"):
        evaluate_predictions("toy", folder)
    (folder / "b/y.png").unlink()
    with pytest.raises(DatasetError, match=r"b/y\.npy.*float64"):
        evaluate_predictions("toy", folder)
    with pytest.raises(DatasetError, match="not found.*nowhere"):
        evaluate_predictions("toy", toy / "nowhere")
    (toy / "ids.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match=r"ids\.yaml.*list"):
        evaluate_predictions("toy", folder, label_map=toy / "ids.yaml")
    (toy / "ids.yaml").write_text("1: null\n2: null\n1: null\n")
    with pytest.raises(ConfigError, match=r"ids\.yaml.* 1 .*twice.*line 3"):
        evaluate_predictions("toy", folder, label_map=toy / "ids.yaml")
    (toy / "ids.yaml").write_text("{a: b}: null\n")
    with pytest.raises(ConfigError, match=r"ids\.yaml.*dict"):
        evaluate_predictions("toy", folder, label_map=toy / "ids.yaml")


def test_a_dataset_without_label_files_is_an_error(toy):
    MetadataCatalog.remove("toy"), DatasetCatalog.remove("toy")
    register_hierarchical_dataset("toy", hierarchy=TREE, image_root=str(toy / "images"))
    with pytest.raises(DatasetError, match="'toy' has no label files"):
        evaluate_predictions("toy", write(toy / "out"))


def test_colours_as_keys_of_a_label_map(tmp_path):
    file = tmp_path / "colors.yaml"
    file.write_text("'#0a0000': road\n[0, 20, 0]: null\n")
    assert read_label_map(file) == {"#0a0000": "road", (0, 20, 0): None}


def test_one_prediction_for_two_images(toy):
    folder = toy / "out"
    folder.mkdir()
    for stem in "xy":
        Image.fromarray(np.full((2, 4), 10, np.uint8)).save(folder / f"{stem}.png")
    with pytest.raises(DatasetError, match=r"x\.png fits two images"):
        evaluate_predictions("toy", folder)


def test_unpredicted_pixels_are_far_from_the_truth():
    counts = PathCounts(TREE)
    truth = np.array([[TREE["car"], TREE["vehicle"], 255]])
    counts.add(truth * 0, truth, unpredicted=np.array([[True, True, True]]))
    scores = hierarchy_scores(counts)
    assert counts.nodes.row_sums().tolist() == [0] * TREE.num_nodes + [2]
    assert scores.tree_distance == scores.mistake_severity == 2
    assert scores.merged[0].iou[1] == 0 and np.isnan(scores.merged[0].iou[0])


def test_command_line(toy, expected, start_tool):
    pytest.importorskip("plotly")
    run = start_tool("evaluate_predictions")
    folder = write(toy / "out")
    code, out, _ = run("toy", folder, "--output", toy / "m", "--report", toy / "m/r.html")
    assert code == 0 and "mIoU" in out and "vehicle" in out
    stored = json.loads((toy / "m/hiera_metrics.json").read_text())["metrics"]
    assert {key: stored[key] for key in expected} == pytest.approx(expected)
    assert "flat" in (toy / "m/r.html").read_text()
    code, _, error = run("toyy", folder)
    assert code == 2 and "'toyy'" in error and error.count("\n") == 1


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_scores_equal_those_of_cityscapesscripts(kind, tmp_path, monkeypatch):
    """Random data in the layout of Cityscapes, scored by its official script."""
    if not hasattr(np, "in1d"):  # removed in NumPy 2.4; the script of 2.3.0 calls it
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    official = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", exc_type=ImportError
    )
    tree = Hierarchy.load("cityscapes")
    train_id = np.full(len(CLASSES), 255)
    for leaf, name in enumerate(tree.leaf_names):
        train_id[CLASSES.index(name)] = leaf
    rng = np.random.default_rng(0)
    official.args.evalInstLevelScore = False
    matrix = official.generateMatrix(official.args)
    for city, number in (("aachen", 0), ("bochum", 1), ("bochum", 2)):
        stem = f"{city}_{number:06}_000019"
        truth = rng.integers(0, len(CLASSES), (40, 60)).astype(np.uint8)
        guess = rng.integers(0, len(CLASSES), (40, 60)).astype(np.uint8)
        guess = np.where(rng.random((40, 60)) < 0.6, truth, guess)
        files = {
            f"leftImg8bit/val/{city}/{stem}_leftImg8bit.png": np.zeros((40, 60, 3), np.uint8),
            f"gtFine/val/{city}/{stem}_gtFine_labelIds.png": truth,
            f"gtFine/val/{city}/{stem}_gtFine_labelTrainIds.png": train_id[truth],
            f"official/{city}/{stem}_pred.png": guess,
            f"results/{city}/{stem}_leftImg8bit_pred.png":
                guess if kind == "labelIds" else train_id[guess],
        }  # fmt: skip
        for name, array in files.items():
            path = tmp_path / "cityscapes" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
        root = tmp_path / "cityscapes"
        official.evaluatePair(
            str(root / f"official/{city}/{stem}_pred.png"),
            str(root / f"gtFine/val/{city}/{stem}_gtFine_labelIds.png"),
            matrix, {}, {}, official.args,
        )  # fmt: skip
    classes = {n: official.getIouScoreForLabel(n, matrix, official.args) for n in range(34)}
    names = official.category2labels
    groups = {n: official.getIouScoreForCategory(n, matrix, official.args) for n in names}

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    name = "hiera_cityscapes_val" if kind == "labelIds" else "hiera_cityscapes_trainids_val"
    results = evaluate_predictions(name, root / "results", suffix="_pred")["sem_seg"]
    ours = results["mIoU"], results["mIoU_category"]
    theirs = [100 * official.getScoreAverage(x, official.args) for x in (classes, groups)]
    print(f"{kind}: ours {ours}, cityscapesScripts {theirs}")
    assert ours == pytest.approx(theirs, abs=1e-9)
    for leaf, leaf_name in enumerate(tree.leaf_names):
        score = 100 * classes[CLASSES.index(leaf_name)]
        assert results[f"IoU-{tree.display_names[leaf]}"] == pytest.approx(score, abs=1e-9)
