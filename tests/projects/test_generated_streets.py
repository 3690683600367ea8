"""The generated scenes: same pixels everywhere, learnable labels, a cache that is never stale."""

import hashlib
import json
import multiprocessing
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.checkpoint import local_path
from hiera_seg.cli import load_config
from hiera_seg.config import resolve_hierarchy
from hiera_seg.data import LabelReader
from hiera_seg.data.catalog import import_modules, require_registered
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import read_node_counts
from projects.GeneratedStreets import TREE, files, list_scenes, scene
from projects.GeneratedStreets.canvas import VOID, Camera, Canvas, Dice, Light
from projects.GeneratedStreets.scene import draw_scene
from projects.GeneratedStreets.vehicles import Vehicle
from tests.helpers import REPOSITORY, run_python

SMALL = (96, 128)

# The pixels are a promise: on every machine, with every version of NumPy, a scene has these bytes.
# Whoever changes the drawing on purpose pins the new ones, and measures the demo again.
PINNED = {
    (0, 0, (256, 384)): "dbf25fb952d6d512543f3ebc6d5270326959ab73d753beb99323f6947abf26c9",
    (1, 3, (256, 384)): "38048b6ed80043419b62b2bfef422792d6707a8984e5696828e65b812d8c6a32",
    (-5, 1 << 40, (97, 131)): "5b49133294a3a88f105892af2ed4d0ead3139c55ce9489ab2dbfb30575726039",
}


def digest(scene) -> str:
    image, labels = scene
    return hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def tree() -> Hierarchy:
    return Hierarchy.load(TREE)


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(7, index, SMALL) for index in range(24)]


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("key", PINNED, ids=str)
def test_a_seed_gives_the_same_pixels_on_any_machine(key):
    seed, index, size = key
    assert digest(draw_scene(seed, index, size)) == PINNED[key]


def test_drawing_keeps_no_state_and_leaves_numpys_generator_alone():
    np.random.seed(3)
    expected = np.random.randint(1 << 30)
    np.random.seed(3)
    first = digest(draw_scene(4, 2, SMALL))
    draw_scene(4, 3, SMALL)
    assert digest(draw_scene(4, 2, SMALL)) == first
    assert np.random.randint(1 << 30) == expected


def test_seed_and_index_each_change_the_scene():
    keys = [(0, 1), (1, 0), (0, 0), (1, 1), (0, -1)]
    assert len({digest(draw_scene(seed, index, SMALL)) for seed, index in keys}) == len(keys)


@pytest.mark.parametrize("size", [(64, 64), (65, 190), (200, 64), (64, 400)])
def test_any_size_from_64_on(size, tree):
    image, labels = draw_scene(2, 5, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert labels.shape == size and labels.dtype == np.uint8
    assert labels[labels != VOID].max() < tree.num_leaves


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match=r"\(63, 100\).*64 x 64"):
        draw_scene(0, 0, (63, 100))


def test_the_tree_has_three_levels_and_shallow_leaves(tree):
    assert tree.level_names == ("group", "kind", "class")
    assert tree.num_leaves >= 12
    assert {tree.depth[tree[name]] for name in ("sky", "rider", "car")} == {0, 1, 2}


def test_every_leaf_is_seen_and_none_is_rare(scenes, tree):
    seen = np.zeros(tree.num_leaves, dtype=int)
    for _, labels in scenes:
        seen[np.unique(labels[labels != VOID])] += 1
    rare = {tree.leaf_names[i]: int(n) for i, n in enumerate(seen) if n < len(scenes) // 6}
    assert not rare


def test_images_use_the_range_of_brightness(scenes):
    means = [image.mean() for image, _ in scenes]
    assert 60 < min(means) and max(means) < 190
    assert max(means) - min(means) > 20, "day and dusk differ"
    assert all(image.std() > 25 for image, _ in scenes)


def test_void_frames_the_picture_and_parts_the_things(scenes, tree):
    things = {tree[name] for name in ("car", "van", "bus", "truck", "pedestrian", "rider")}
    for _, labels in scenes:
        border = [labels[0], labels[-1], labels[:, 0], labels[:, -1]]
        assert all((edge == VOID).all() for edge in border)
        assert (labels == VOID).mean() < 0.35
        # Nowhere does a thing touch the road or the sky: void lies between.
        for a, b in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
            pairs = set(zip(a[a != b].tolist(), b[a != b].tolist(), strict=True))
            for other in (tree["road"], tree["sky"]):
                assert not {(t, other) for t in things} & pairs
                assert not {(other, t) for t in things} & pairs


def test_near_vehicles_are_larger_than_far_ones():
    light = Light(horizon=(0, 0, 0), ambient=1.0, sun=(0, 0, 0))
    areas = []
    for z in (800, 1600, 3200):
        canvas = Canvas(200, 300, Camera(280, 150, 90, 160), light, 9000, {"car": 5})
        canvas.pixels[..., 3] = -1
        Vehicle("car", 0, z, "rear", Dice(1)).draw(canvas)
        assert canvas.labels == [5]
        areas.append(int((canvas.pixels[..., 3] == 0).sum()))
    # Twice the distance: a quarter of the area, within the rounding to pixels.
    assert 3 < areas[0] / areas[1] < 6 and 3 < areas[1] / areas[2] < 6


def test_siblings_look_alike_and_cousins_do_not(scenes, tree):
    """The mean colours of leaves differ less within a kind than between the top groups."""
    sums, counts = np.zeros((tree.num_leaves, 3)), np.zeros((tree.num_leaves, 1))
    for image, labels in scenes:
        for leaf in range(tree.num_leaves):
            inside = labels == leaf
            sums[leaf] += image[inside].sum(axis=0)
            counts[leaf] += inside.sum()
    colour = sums / counts

    def apart(a, b):
        return np.abs(colour[tree[a]] - colour[tree[b]]).max()

    for a, b in (("car", "van"), ("truck", "bus"), ("house", "office"), ("road", "sidewalk")):
        assert apart(a, b) < min(apart(a, "sky"), 70)
    assert apart("broadleaf", "hedge") < 60 < apart("sky", "broadleaf")


def test_scenes_are_written_once_and_read_as_node_ids(cache_folder, tree, monkeypatch):
    records = list_scenes("val", count=3, size=SMALL)
    assert len(records) == 3 and (records[0]["height"], records[0]["width"]) == SMALL
    image, labels = draw_scene(1, 2, SMALL)
    with Image.open(records[2]["file_name"]) as file:
        assert np.array_equal(np.asarray(file), image)
    read = LabelReader(tree)(records[2]["sem_seg_file_name"])
    assert np.array_equal(read, labels)
    monkeypatch.setattr(scene, "draw_scene", None)  # a second use must not draw
    assert list_scenes("val", count=3, size=SMALL) == records


def test_train_and_val_share_no_scene():
    seeds = [seed for seed, _ in files.SPLITS.values()]
    assert len(set(seeds)) == len(seeds)


def test_a_damaged_cache_is_drawn_again(cache_folder):
    records = list_scenes("train", count=2, size=SMALL)
    os.remove(records[1]["file_name"])
    assert list_scenes("train", count=2, size=SMALL) == records
    assert os.path.exists(records[1]["file_name"])
    assert len(list((cache_folder / "generated").iterdir())) == 1, "nothing else is left behind"


def test_another_version_of_the_drawing_gets_its_own_files(cache_folder, monkeypatch):
    old = list_scenes("train", count=1, size=SMALL)
    monkeypatch.setattr(files, "fingerprint", lambda: "another")
    new = list_scenes("train", count=1, size=SMALL)
    assert old != new and os.path.exists(old[0]["file_name"])
    manifest = os.path.join(os.path.dirname(os.path.dirname(new[0]["file_name"])), "manifest.json")
    with open(manifest) as file:
        assert json.load(file)["drawn_by"] == "another"


def test_an_interrupted_drawing_leaves_nothing(cache_folder, monkeypatch):
    def interrupt(seed, index, size):
        if index == 1:
            raise KeyboardInterrupt
        return draw_scene(seed, index, size)

    monkeypatch.setattr(scene, "draw_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list_scenes("train", count=2, size=SMALL)
    assert list((cache_folder / "generated").iterdir()) == []


def _list_two(_):
    return list_scenes("val", count=2, size=SMALL)


def test_processes_may_race(cache_folder):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        answers = pool.map(_list_two, range(3), chunksize=1)
    assert answers[0] == answers[1] == answers[2]
    assert all(os.path.exists(record["file_name"]) for record in answers[0])
    assert len(list((cache_folder / "generated").iterdir())) == 1


def test_a_cache_that_can_not_be_written_names_the_variable(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv(files.CACHE_VARIABLE, str(blocker))
    with pytest.raises(DatasetError, match=f"{blocker}.*set {files.CACHE_VARIABLE}"):
        list_scenes("val", count=1, size=SMALL)


def test_an_unknown_split_is_named():
    with pytest.raises(DatasetError, match="'test'.*train or val"):
        list_scenes("test")


def test_registered_as_ordinary_datasets(cache_folder, monkeypatch, tree):
    monkeypatch.setitem(files.SPLITS, "val", (1, 2))
    records = DatasetCatalog.get("hiera_generated_val")
    assert len(records) == 2
    assert records[0]["dataset_name"] == "hiera_generated_val"
    assert os.path.exists(records[0]["sem_seg_file_name"])
    metadata = MetadataCatalog.get("hiera_generated_train")
    assert metadata.stuff_classes == list(tree.leaf_names)
    assert metadata.ignore_label == VOID
    assert Hierarchy.from_dict(**metadata.hierarchy) == tree


def test_the_demo_weights_classes_by_counts_of_the_whole_training_split(tree):
    cfg = load_config(str(REPOSITORY / "configs/Generated/level_ce_deeplab_v3_plus_lite0.yaml"), [])
    file = local_path(cfg.MODEL.HIERA_SEG.NODE_WEIGHTS.FILE)
    counts, (_, scenes) = json.loads(Path(file).read_text()), files.SPLITS["train"]
    assert (counts["datasets"], counts["images"]) == (["hiera_generated_train"], scenes)
    pixels = read_node_counts(file, tree)
    assert pixels.sum() + counts["void"] == scenes * files.SIZE[0] * files.SIZE[1]
    share = pixels[: tree.num_leaves] / pixels.sum()
    labels = [draw_scene(0, index)[1] for index in range(16)]
    seen = np.bincount(np.concatenate(labels, None), minlength=256)[: tree.num_leaves]
    assert np.abs(np.sqrt(seen / seen.sum()) - np.sqrt(share)).max() < 0.1


def test_registering_and_listing_need_no_opencv():
    code = """if True:
        import sys
        sys.modules["cv2"] = None
        import projects.GeneratedStreets as streets
        from hiera_seg.data import DatasetError
        try:
            streets.list_scenes("val", count=1)
        except DatasetError as error:
            print(error)
    """
    assert "OpenCV" in run_python("-c", code).stdout


@pytest.fixture
def unregistered(monkeypatch):
    """A process in which the project has not been imported yet."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if Path(p).resolve() != REPOSITORY])
    names = [name for name in MetadataCatalog.list() if "generated" in name]
    kept = {name: MetadataCatalog.get(name) for name in names}
    sources = {name: DatasetCatalog[name] for name in kept}
    for name in [n for n in sys.modules if n == "projects" or n.startswith("projects.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in kept:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    yield
    for name in kept:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, sources[name])
        MetadataCatalog[name] = kept[name]


def test_tools_register_the_project_beside_them(unregistered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import_modules([], tool=tmp_path / "tools" / "train_net.py")
    assert "hiera_generated_val" not in DatasetCatalog
    import_modules([], tool=REPOSITORY / "tools" / "train_net.py")
    assert "hiera_generated_val" in DatasetCatalog


def test_elsewhere_the_error_names_the_project(unregistered):
    with pytest.raises(ConfigError, match="--import projects.GeneratedStreets"):
        require_registered(["hiera_generated_val"], "DATASETS.TEST")
    config = REPOSITORY / "configs/Generated/hssn_deeplab_v3_plus_r18.yaml"
    with pytest.raises(ConfigError, match="--import projects.GeneratedStreets"):
        resolve_hierarchy(load_config(str(config), []))
    with pytest.raises(ConfigError, match="import the code that registers it"):
        require_registered(["my_own_val"], "DATASETS.TEST")


TOOLS = sorted(
    path.name
    for path in (REPOSITORY / "tools").glob("*.py")
    if "add_import" in path.read_text() or "argument_parser(EPILOG" in path.read_text()
)


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_that_takes_datasets_imports_what_lies_beside_it(name):
    text = (REPOSITORY / "tools" / name).read_text()
    assert re.search(r"(import_modules|read_config)\(.*tool=__file__\)", text)


def test_the_project_is_small():
    lines = sum(len(p.read_text().splitlines()) for p in TREE.parent.glob("*.py"))
    assert lines < 1000
