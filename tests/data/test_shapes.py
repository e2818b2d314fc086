"""The shapes dataset: what it holds, that it is the same every time, and that it appears whole or not at all."""

import hashlib
import json
import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from flash_internimage.data import check_dataset, make_shapes, shapes
from flash_internimage.data.shapes import annotation_file, load_shapes
from flash_internimage.data.shapes_drawing import (
    CATEGORIES,
    compressed_rle,
    draw_picture,
    inside_polygon,
    mask_to_box,
    outline,
    polygon_mask,
    uncompressed_rle,
)
from flash_internimage.errors import UserError

SIZES = {"train": 3, "val": 2}
EXPECTED = ("1", [(157, 112), (106, 108)], [630004137, 583177829])


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def val(tmp_path_factory) -> COCO:
    """The whole validation split, opened by pycocotools; its images are beside it."""
    root = tmp_path_factory.mktemp("whole") / "shapes"
    shapes.write_split(root, "val", shapes.SIZES["val"])
    return COCO(str(annotation_file(root, "val")))


def test_pycocotools_agrees_on_masks_boxes_and_areas(val):
    for annotation in val.anns.values():
        mask = val.annToMask(annotation)
        image = val.imgs[annotation["image_id"]]
        assert mask.shape == (image["height"], image["width"])
        assert mask.sum() == annotation["area"]
        assert mask_to_box(mask.astype(bool)) == annotation["bbox"]


def test_holds_what_a_real_dataset_holds(val):
    annotations = list(val.anns.values())
    kinds = Counter(
        "crowd" if a["iscrowd"] else "hidden" if isinstance(a["segmentation"], dict) else "whole" for a in annotations
    )
    assert kinds["whole"] > 100
    assert kinds["hidden"] > 50
    assert kinds["crowd"] >= 5
    objects = Counter(a["category_id"] for a in annotations if not a["iscrowd"])
    assert set(objects) == set(CATEGORIES) == {3, 7, 16, 42}
    assert min(objects.values()) > 40
    empty = [id_ for id_ in val.imgs if not val.imgToAnns[id_]]
    assert 3 <= len(empty) <= 12
    sizes = np.sqrt([a["area"] for a in annotations if not a["iscrowd"]])
    assert sizes.min() < 16
    assert sizes.max() > 50
    sides = np.array([(image["height"], image["width"]) for image in val.imgs.values()])
    assert sides.min() >= 96
    assert sides.max() <= 160
    assert 0.3 < (sides[:, 0] > sides[:, 1]).mean() < 0.7


def test_check_finds_no_fault(val, tmp_path):
    make_shapes(tmp_path / "shapes", SIZES)
    for split in SIZES:
        report = check_dataset(annotation_file(tmp_path / "shapes", split), tmp_path / "shapes" / split)
        assert report.errors == []
        assert all("have no objects" in warning for warning in report.warnings)  # a few images do not show all classes
        assert report.num_images == SIZES[split]


def test_loads_through_detectron2_with_contiguous_classes(small_shapes):
    dataset_dicts = DatasetCatalog.get("small_shapes_train")
    assert len(dataset_dicts) == 14
    metadata = MetadataCatalog.get("small_shapes_train")
    assert metadata.thing_classes == ["circle", "triangle", "square", "star"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1, 16: 2, 42: 3}
    for dataset_dict in dataset_dicts:
        assert Image.open(dataset_dict["file_name"]).size == (dataset_dict["width"], dataset_dict["height"])


def test_splits_share_no_picture(val):
    train = {shapes._FIRST_NUMBER["train"] + i for i in range(shapes.SIZES["train"])}
    assert not train & set(val.imgs)


def test_same_bytes_every_time(tmp_path):
    make_shapes(tmp_path / "a", SIZES)
    make_shapes(tmp_path / "b", SIZES)
    assert len(digest(tmp_path / "a")) == 5 + 2
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_pictures_do_not_change():
    # A change of the drawing must come with a new version number, or datasets drawn before would pass for new ones.
    pictures = [draw_picture(number).image for number in (5, 100_013)]
    sums = [int(np.multiply(p.astype(np.int64), np.arange(p.size).reshape(p.shape) % 251).sum()) for p in pictures]
    assert (shapes._VERSION, [p.shape[:2] for p in pictures], sums) == EXPECTED


def test_is_not_drawn_again(tmp_path):
    make_shapes(tmp_path / "shapes", SIZES)
    image = next((tmp_path / "shapes" / "val").iterdir())
    before = image.stat().st_mtime_ns
    make_shapes(tmp_path / "shapes", SIZES)
    assert image.stat().st_mtime_ns == before


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def break_off(root, split, size):
        Path(root, split).mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "write_split", break_off)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "shapes", SIZES)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_race_both_succeed(tmp_path):
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=make_shapes, args=(tmp_path / "shapes", SIZES)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    make_shapes(tmp_path / "alone", SIZES)
    assert digest(tmp_path / "shapes") == digest(tmp_path / "alone")


def test_loses_a_race_gracefully(tmp_path, monkeypatch):
    make_shapes(tmp_path / "ready", SIZES)
    write_split = shapes.write_split

    def be_slow(root, split, size):
        write_split(root, split, size)
        if not (tmp_path / "shapes").exists():
            (tmp_path / "ready").rename(tmp_path / "shapes")

    monkeypatch.setattr(shapes, "write_split", be_slow)
    make_shapes(tmp_path / "shapes", SIZES)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def other_version(root: Path) -> None:
    file = annotation_file(root, "val")
    file.write_text(json.dumps({**json.loads(file.read_text()), "info": {"version": "0"}}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_version, "instances_val.json is of '0'; delete the folder"),
        (lambda root: annotation_file(root, "train").unlink(), "instances_train.json is missing or damaged"),
        (lambda root: annotation_file(root, "train").write_text("{"), "instances_train.json is missing or damaged"),
    ],
    ids=["another version", "a missing file", "a damaged file"],
)
def test_what_is_not_this_dataset_is_left_alone(tmp_path, damage, message):
    root = tmp_path / "shapes"
    make_shapes(root, SIZES)
    damage(root)
    before = digest(root)
    with pytest.raises(UserError, match=message):
        make_shapes(root, SIZES)
    assert digest(root) == before


def test_is_made_when_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "make_shapes", lambda root: make_shapes(root, SIZES))
    dataset_dicts = load_shapes(tmp_path / "shapes", "val", "shapes_made_on_load")
    MetadataCatalog.remove("shapes_made_on_load")
    assert len(dataset_dicts) == 2


def test_inside_polygon_by_hand():
    square = np.array([[0, 0], [4, 0], [4, 2], [0, 2]], dtype=float)
    inside = inside_polygon(square, np.array([1.0, 5.0, -1.0]), np.array([1.0, 1.0, 1.0]))
    assert inside.tolist() == [True, False, False]


@pytest.mark.parametrize("name", sorted(CATEGORIES.values()))
def test_outline_lies_in_its_circle(name):
    corners = outline(name, 10.0, 0.3)
    radii = np.hypot(*corners.T)
    assert radii.max() == pytest.approx(10)
    if name != "star":
        np.testing.assert_allclose(radii, 10)


def test_shapes_point_upwards():
    for name in ("triangle", "star"):
        assert outline(name, 1.0, 0.0)[0] == pytest.approx([0, -1])  # y grows downwards
    np.testing.assert_allclose(abs(outline("square", np.sqrt(2), 0.0)), 1)


def test_run_lengths_agree_with_pycocotools():
    noise = np.random.RandomState(0).rand(11, 7) > 0.4
    for mask in (noise, ~noise, np.ones((3, 2), dtype=bool), np.zeros((3, 2), dtype=bool)):
        plain = uncompressed_rle(mask)
        decoded = mask_util.decode(mask_util.frPyObjects(plain, *plain["size"]))
        np.testing.assert_array_equal(decoded, mask)
        np.testing.assert_array_equal(mask_util.decode(compressed_rle(mask)), mask)


def test_polygon_mask_fills_whole_pixels():
    mask = polygon_mask(np.array([[1.0, 1.0], [4.0, 1.0], [4.0, 3.0], [1.0, 3.0]]), 5, 6)
    assert mask_to_box(mask) == [1, 1, 3, 2]
    assert mask.sum() == 6


def test_picture_shows_its_objects():
    # Inside a mask colors differ from those around it more than pixels of the background do among themselves.
    picture = draw_picture(3)
    assert len(picture.annotations) == 3
    image = picture.image.astype(float)
    for annotation in picture.annotations:
        mask = mask_util.decode(
            mask_util.merge(mask_util.frPyObjects(annotation.segmentation, *image.shape[:2]))
            if isinstance(annotation.segmentation, list)
            else annotation.segmentation
        ).astype(bool)
        x, y, width, height = (int(value) for value in annotation.box)
        window = np.zeros_like(mask)
        window[max(y - 4, 0) : y + height + 4, max(x - 4, 0) : x + width + 4] = True
        difference = np.abs(image[mask].mean(axis=0) - image[window & ~mask].mean(axis=0)).max()
        assert difference > 30
