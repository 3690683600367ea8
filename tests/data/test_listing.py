"""Pair image and label files by their names."""

import os
import pickle

import pytest
from detectron2.data import DatasetCatalog

from hiera_seg.data import pair_files, register_hierarchical_dataset
from hiera_seg.data.listing import UnpairedFilesError
from hiera_seg.errors import DatasetError


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names_of(records, root):
    keys = ("file_name", "sem_seg_file_name")
    return [tuple(os.path.relpath(r[k], root) for k in keys if k in r) for r in records]


@pytest.fixture
def pairs(tmp_path):
    """A function that lists the pairs of two folders, by default images/ and labels/."""

    def find(images="images", labels="labels", **options):
        return names_of(pair_files(tmp_path / images, tmp_path / labels, **options), tmp_path)

    return find


def test_files_pair_by_path_at_any_depth(pairs, tmp_path):
    images = ("b.jpg", "a.PNG", "x/a.jpg", "x/y/c.v2.jpeg", ".hidden.jpg", ".tmp/d.jpg")
    labels = ("b.png", "a.png", "x/a.tif", "x/y/c.v2.png", "notes.txt")
    touch(*(tmp_path / "images" / path for path in images))
    touch(*(tmp_path / "labels" / path for path in labels))
    assert pairs() == [
        ("images/a.PNG", "labels/a.png"),
        ("images/b.jpg", "labels/b.png"),
        ("images/x/a.jpg", "labels/x/a.tif"),
        ("images/x/y/c.v2.jpeg", "labels/x/y/c.v2.png"),
    ]


def test_files_of_one_stem_pair_across_folders(pairs, tmp_path):
    touch(tmp_path / "images/seq1/a.jpg", tmp_path / "images/seq2/b.jpg")
    touch(tmp_path / "labels/a.png", tmp_path / "labels/deep/er/b.png")
    assert pairs() == [
        ("images/seq1/a.jpg", "labels/a.png"),
        ("images/seq2/b.jpg", "labels/deep/er/b.png"),
    ]


def test_a_stem_that_also_occurs_elsewhere_pairs_no_files(pairs, tmp_path):
    touch(tmp_path / "images/seq1/a.jpg", tmp_path / "images/seq2/a.jpg")
    touch(tmp_path / "labels/seq1/a.png", tmp_path / "labels/seq3/a.png")
    with pytest.raises(UnpairedFilesError, match=r"seq2/a\.jpg.*seq3/a\.png") as error:
        pairs()
    assert len(error.value.records) == 1


def test_labels_may_lie_among_or_below_the_images(pairs, tmp_path):
    touch(tmp_path / "one/a.jpg", tmp_path / "one/a.png")
    assert pairs("one", "one") == [("one/a.jpg", "one/a.png")]
    touch(tmp_path / "two/a.png", tmp_path / "two/labels/a.png")
    assert pairs("two", "two/labels") == [("two/a.png", "two/labels/a.png")]


def test_a_suffix_tells_images_and_labels_of_one_folder_apart(pairs, tmp_path):
    touch(
        *(tmp_path / f"one/{name}" for name in ("a.png", "a_mask.png", "s/b.jpg", "s/b_mask.png"))
    )
    assert pairs("one", "one", label_suffix="_mask") == [
        ("one/a.png", "one/a_mask.png"), ("one/s/b.jpg", "one/s/b_mask.png")
    ]  # fmt: skip
    # The longer suffix decides, on either side.
    touch(*(tmp_path / f"two/{name}.png" for name in ("c", "c_rgb", "d_x", "d_x_rgb")))
    assert pairs("two", "two", image_suffix="_rgb") == [
        ("two/c_rgb.png", "two/c.png"), ("two/d_x_rgb.png", "two/d_x.png")
    ]  # fmt: skip
    touch(*(tmp_path / f"three/{name}.png" for name in ("a", "a_mask", "b", "b_mask")))
    with pytest.raises(DatasetError, match="did you mean label_suffix='_mask'?"):
        pairs("three", "three")


def test_a_split_file_names_stems_or_paths(tree, tmp_path):
    names = ("x/a", "x/b", "y/b", "y/c.v2", "y/d")
    touch(*(tmp_path / f"images/{name}_rgb.jpg" for name in names))
    touch(*(tmp_path / f"labels/{name}.png" for name in (*names[:-1], "alone")))
    split = tmp_path / "train.txt"
    split.write_text("y/b 1\n\n/data/set/y/c.v2_rgb.jpg /data/labels/c.png\na_rgb\n")
    register_hierarchical_dataset(
        "split", hierarchy=tree, image_root=tmp_path / "images", sem_seg_root=tmp_path / "labels",
        image_suffix="_rgb", split_file=split,
    )  # fmt: skip
    listing = pickle.loads(pickle.dumps(DatasetCatalog["split"]))
    assert names_of(listing(), tmp_path) == [
        (f"images/{name}_rgb.jpg", f"labels/{name}.png") for name in ("y/b", "y/c.v2", "x/a")
    ]
    split.write_text("x/a\nd\nnone\n")  # one pair, one image without a label, and no image
    with pytest.raises(UnpairedFilesError) as error:
        DatasetCatalog.get("split")
    assert f"1 line of {split}" in str(error.value) and ": 'none';" in str(error.value)
    assert f"1 image without a label: '{tmp_path}/images/y/d_rgb.jpg'" in str(error.value)
    assert "alone" not in str(error.value)
    assert names_of(error.value.records, tmp_path) == [("images/x/a_rgb.jpg", "labels/x/a.png")]
    split.write_text("b\n")
    with pytest.raises(DatasetError, match=r"train\.txt: 'b' fits 2 images, such as x/b and y/b"):
        DatasetCatalog.get("split")


def test_a_split_file_of_names_with_spaces(pairs, tmp_path):
    names = ("my street 1", "my street 2", "other/my street 3", "street")
    touch(*(tmp_path / f"images/{name}.jpg" for name in names))
    touch(*(tmp_path / f"labels/{name}.png" for name in names))
    split = tmp_path / "train.txt"
    split.write_text("my street 2\r\nmy street 3.jpg\r\nx/street.jpg y/street.png\r\n", "utf-8-sig")
    assert pairs(split_file=split) == [
        (f"images/{name}.jpg", f"labels/{name}.png") for name in (*names[1:3], "street")
    ]
    split.write_text("x/none.jpg y/street.png\n")  # the second column is no image
    with pytest.raises(UnpairedFilesError, match=r"1 line of .*train\.txt without.*x/none\.jpg"):
        pairs(split_file=split)


def test_a_line_does_not_fit_an_image_of_another_folder(pairs, tmp_path):
    touch(*(tmp_path / f"images/{name}.jpg" for name in ("drive/2/1", "drive/2/2")))
    touch(*(tmp_path / f"labels/{name}.png" for name in ("drive/2/1", "drive/2/2")))
    split = tmp_path / "train.txt"
    split.write_text("images/drive/2/2.jpg\n2/1\n")
    assert [image for image, _ in pairs(split_file=split)] == [
        f"images/drive/2/{name}.jpg" for name in "21"
    ]
    split.write_text("drive/2/2\ndrive/1/1\n")
    with pytest.raises(UnpairedFilesError, match=r"1 line of .*: 'drive/1/1'"):
        pairs(split_file=split)


@pytest.mark.parametrize(
    "lines, named",
    [("a\nb\na\n", ["'a' 2"]), ("a\nb\na 1\n", ["'a 1'"]), ("a\nb\na.jpg\n", ["'a.jpg'"])],
)
def test_an_image_is_named_once_in_a_split_file(pairs, tmp_path, lines, named):
    touch(*(tmp_path / f"images/{name}.jpg" for name in "ab"))
    touch(*(tmp_path / f"labels/{name}.png" for name in "ab"))
    split = tmp_path / "train.txt"
    split.write_text(lines)
    with pytest.raises(DatasetError) as error:
        pairs(split_file=split)
    for part in (str(split), *named):
        assert part in str(error.value)


def test_a_pattern_tells_images_and_labels_of_one_folder_apart(pairs, tmp_path):
    touch(*(tmp_path / name for name in ("s/rgb/a.png", "s/mask/a.png", "t/rgb/b.png")))
    touch(tmp_path / "t/mask/b.png")
    assert pairs("", "", image_glob="*/rgb/*.png") == [
        ("s/rgb/a.png", "s/mask/a.png"), ("t/rgb/b.png", "t/mask/b.png")
    ]  # fmt: skip
    with pytest.raises(DatasetError, match=r"no image files \(\*\.jpg "):
        pairs("", "", image_glob="*.jpg")


@pytest.mark.parametrize(
    "images, labels, question",
    [
        (["a", "b"], ["a_mask", "b_mask"], "did you mean label_suffix='_mask'?"),
        (["a_rgb", "b_rgb"], ["a", "b"], "did you mean image_suffix='_rgb'?"),
        (
            ["a_leftImg8bit", "b_leftImg8bit"],
            ["a_gtFine_color", "b_gtFine_color", "a_gtFine_labelIds", "b_gtFine_labelIds"],
            "did you mean image_suffix='_leftImg8bit' and label_suffix='_gtFine_color' or "
            "label_suffix='_gtFine_labelIds'?",
        ),
        (["a", "b", "c"], ["x", "y", "c"], None),
    ],
)
def test_an_error_of_pairing_asks_for_the_suffix(pairs, tmp_path, images, labels, question):
    touch(*(tmp_path / f"images/{name}.jpg" for name in images))
    touch(*(tmp_path / f"labels/{name}.png" for name in labels))
    with pytest.raises(UnpairedFilesError) as error:
        pairs()
    message = str(error.value)
    assert message.endswith(question) if question else "did you mean" not in message


@pytest.mark.parametrize("wrong", ["_masks", "_mask.png"])
def test_a_wrong_suffix_is_corrected(pairs, tmp_path, wrong):
    touch(*(tmp_path / f"images/{name}.jpg" for name in "ab"))
    touch(*(tmp_path / f"labels/{name}_mask.png" for name in "ab"))
    with pytest.raises(DatasetError, match=rf"\*{wrong} .*did you mean label_suffix='_mask'\?"):
        pairs(label_suffix=wrong)


def test_a_folder_is_listed_once_whatever_links_lead_to_it(pairs, tmp_path):
    names = ("a", "s/b", "s/t/c")
    touch(*(tmp_path / f"data/images/{name}.jpg" for name in names))
    touch(*(tmp_path / f"data/labels/{name}.png" for name in names))
    touch(tmp_path / "elsewhere/e.jpg", tmp_path / "beside/e.png", tmp_path / "data/other/x.jpg")
    for root, other in (("images", "elsewhere"), ("labels", "beside")):
        folder = tmp_path / "data" / root
        for link, target in (
            (folder / "itself", "."),  # two of them make a walk that follows loops endless
            (folder / "again", "."),
            (folder / "above", ".."),
            (folder / "s/top", ".."),
            (folder / "A", "s/t"),  # before the folder by name
            (folder / "more", tmp_path / other),
        ):
            os.symlink(target, link)
    assert pairs("data/images", "data/labels") == [
        (f"data/images/{name}.jpg", f"data/labels/{name}.png")
        for name in ("a", "more/e", "s/b", "s/t/c")
    ]


def test_unpaired_files_are_named_and_counted(tmp_path):
    touch(*(tmp_path / f"images/{i}.jpg" for i in range(9)), tmp_path / "images/s/x.jpg")
    touch(tmp_path / "labels/0.png", tmp_path / "labels/t/x.png", tmp_path / "labels/u/x.png")
    with pytest.raises(UnpairedFilesError) as error:
        pair_files(tmp_path / "images", tmp_path / "labels")
    first = ", ".join(repr(str(tmp_path / f"images/{i}.jpg")) for i in range(1, 6))
    # x is ambiguous: two labels have its stem, and neither its path
    both = f"'{tmp_path}/labels/t/x.png', '{tmp_path}/labels/u/x.png'"
    assert str(error.value).startswith(
        f"9 images without a label: {first} and 4 more; 2 labels without an image: {both} ("
    )
    assert names_of(error.value.records, tmp_path) == [("images/0.jpg", "labels/0.png")]


def test_images_alone(tmp_path):
    touch(tmp_path / "images/a.jpg")
    assert names_of(pair_files(tmp_path / "images", None), tmp_path) == [("images/a.jpg",)]
    touch(tmp_path / "images/a.png")
    with pytest.raises(DatasetError, match="two image files .*: .*a.* and .*a"):
        pair_files(tmp_path / "images", None)
