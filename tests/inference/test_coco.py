"""COCO result files, read back by pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from hiera_seg.inference import CocoResultWriter


def results(tree, shapes):
    """Label maps and scores per level of images of some shapes."""
    rng = np.random.default_rng(0)
    for shape in shapes:
        leaf = rng.integers(0, tree.num_leaves, shape)
        labels = [tree.level_ancestor[level][leaf] for level in range(tree.num_levels)]
        labels[-1][:2] = tree["body"]  # as a safe depth leaves them
        scores = rng.random((tree.num_levels, *shape)).astype(np.float32)
        yield {
            "hiera_labels": [torch.as_tensor(x) for x in labels],
            "hiera_confidence": list(torch.as_tensor(scores)),
        }


def read(folder, level):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(folder / "rle-images.json").loadRes(str(folder / f"rle-{level}.json"))


def test_regions_are_the_label_maps(tree, tmp_path):
    images = list(results(tree, [(9, 13), (6, 5)]))
    with CocoResultWriter(tmp_path, tree) as writer:
        writer.add("a.jpg", images[0])
        writer.add("drive.mp4", images[1], frame_index=7)
    for level, name in enumerate(tree.level_names):
        coco = read(tmp_path, name)
        assert [image["file_name"] for image in coco.loadImgs([1, 2])] == ["a.jpg", "drive.mp4"]
        assert coco.loadImgs(2)[0]["frame_index"] == 7
        for image_id, result in enumerate(images, start=1):
            expected = result["hiera_labels"][level].numpy()
            scores = result["hiera_confidence"][level].numpy()
            found = np.full(expected.shape, -1)
            for region in coco.loadAnns(coco.getAnnIds(imgIds=image_id)):
                node, mask = region["category_id"], coco.annToMask(region).astype(bool)
                assert (found[mask] == -1).all()
                found[mask] = node
                assert region["score"] == pytest.approx(scores[mask].mean(), abs=1e-5)
                assert coco.loadCats(node)[0]["name"] == tree.paths[node]
            np.testing.assert_array_equal(found, expected)


def test_categories_are_the_nodes(tree, tmp_path):
    with CocoResultWriter(tmp_path, tree) as writer:
        writer.add("a.jpg", next(results(tree, [(3, 4)])))
    content = json.loads((tmp_path / "rle-images.json").read_text())
    assert [c["id"] for c in content["categories"]] == list(range(tree.num_nodes))
    arm, sky = content["categories"][tree["arm"]], content["categories"][tree["sky"]]
    assert arm == {"id": tree["arm"], "name": "body/arm", "supercategory": "body"}
    assert "supercategory" not in sky
    assert content["images"] == [{"id": 1, "file_name": "a.jpg", "height": 3, "width": 4}]


def test_one_level_without_scores(tree, tmp_path):
    result = next(results(tree, [(3, 4)]))
    del result["hiera_confidence"]
    with CocoResultWriter(tmp_path, tree, ["part"]) as writer:
        writer.add("a.jpg", result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rle-images.json", "rle-part.json"]
    assert {r["score"] for r in json.loads((tmp_path / "rle-part.json").read_text())} == {1.0}


def test_a_run_that_is_cut_short_leaves_files_that_can_be_read(tree, tmp_path):
    first, second = results(tree, [(3, 4), (5, 5)])
    with pytest.raises(KeyboardInterrupt), CocoResultWriter(tmp_path, tree) as writer:
        writer.add("a.jpg", first)
        raise KeyboardInterrupt
    assert len(read(tmp_path, "group").getImgIds()) == 1
    with CocoResultWriter(tmp_path, tree):
        pass
    assert json.loads((tmp_path / "rle-group.json").read_text()) == []


def test_an_image_that_fails_leaves_nothing_behind(tree, tmp_path):
    good, other = results(tree, [(3, 4), (5, 2)])
    bad = {**good, "hiera_labels": [*good["hiera_labels"][:-1], "no map"]}
    with CocoResultWriter(tmp_path, tree) as writer:
        for name, result in (("bad", bad), ("a", good), ("bad", bad), ("b", other)):
            with contextlib.suppress(Exception) if name == "bad" else contextlib.nullcontext():
                writer.add(name, result)
        writer.close()  # and again at the end of the block
    for name in tree.level_names:
        coco = read(tmp_path, name)
        assert [image["file_name"] for image in coco.loadImgs([1, 2])] == ["a", "b"]
        for image_id, size in ((1, 12), (2, 10)):
            regions = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
            assert sum(coco.annToMask(region).sum() for region in regions) == size


def test_a_folder_that_is_not_there(tree, tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        CocoResultWriter(tmp_path / "nowhere", tree)
