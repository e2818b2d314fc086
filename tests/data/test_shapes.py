"""The shapes dataset: its contents, reproducibility, and atomic generation."""

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
    draw_image,
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
    """The complete validation split, loaded by pycocotools."""
    root = tmp_path_factory.mktemp("complete") / "shapes"
    shapes.write_split(root, "val", shapes.SIZES["val"])
    return COCO(str(annotation_file(root, "val")))


def test_pycocotools_agrees_on_masks_boxes_and_areas(val):
    for annotation in val.anns.values():
        mask = val.annToMask(annotation)
        image = val.imgs[annotation["image_id"]]
        assert mask.shape == (image["height"], image["width"])
        assert mask.sum() == annotation["area"]
        assert mask_to_box(mask.astype(bool)) == annotation["bbox"]


def test_has_the_variety_of_a_real_dataset(val):
    annotations = list(val.anns.values())
    kinds = Counter(
        "crowd" if a["iscrowd"] else "occluded" if isinstance(a["segmentation"], dict) else "visible" for a in annotations
    )
    assert kinds["visible"] > 100
    assert kinds["occluded"] > 50
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


def test_is_a_valid_dataset(val, tmp_path):
    make_shapes(tmp_path / "shapes", SIZES)
    for split in SIZES:
        report = check_dataset(annotation_file(tmp_path / "shapes", split), tmp_path / "shapes" / split)
        assert report.errors == []
        assert all("no objects" in warning for warning in report.warnings)  # a few images do not contain all classes
        assert report.num_images == SIZES[split]


def test_loads_through_detectron2_with_contiguous_classes(small_shapes):
    dataset_dicts = DatasetCatalog.get("small_shapes_train")
    assert len(dataset_dicts) == 14
    metadata = MetadataCatalog.get("small_shapes_train")
    assert metadata.thing_classes == ["circle", "triangle", "square", "star"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1, 16: 2, 42: 3}
    for dataset_dict in dataset_dicts:
        assert Image.open(dataset_dict["file_name"]).size == (dataset_dict["width"], dataset_dict["height"])


def test_splits_share_no_image(val):
    train = {shapes._FIRST_NUMBER["train"] + i for i in range(shapes.SIZES["train"])}
    assert not train & set(val.imgs)


def test_same_bytes_every_time(tmp_path):
    make_shapes(tmp_path / "a", SIZES)
    make_shapes(tmp_path / "b", SIZES)
    assert len(digest(tmp_path / "a")) == 5 + 2
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_images_do_not_change():
    # Changed images need a new version number; otherwise datasets generated before would be taken for current ones.
    images = [draw_image(number).image for number in (5, 100_013)]
    sums = [int(np.multiply(i.astype(np.int64), np.arange(i.size).reshape(i.shape) % 251).sum()) for i in images]
    assert (shapes._VERSION, [image.shape[:2] for image in images], sums) == EXPECTED


def test_existing_dataset_is_not_generated_again(tmp_path):
    make_shapes(tmp_path / "shapes", SIZES)
    image = next((tmp_path / "shapes" / "val").iterdir())
    before = image.stat().st_mtime_ns
    make_shapes(tmp_path / "shapes", SIZES)
    assert image.stat().st_mtime_ns == before


def test_failure_leaves_no_files(tmp_path, monkeypatch):
    def interrupt(root, split, size):
        Path(root, split).mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "write_split", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "shapes", SIZES)
    assert list(tmp_path.iterdir()) == []


def test_concurrent_processes_all_succeed(tmp_path):
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


def test_lost_race_is_not_an_error(tmp_path, monkeypatch):
    make_shapes(tmp_path / "ready", SIZES)
    write_split = shapes.write_split

    def lose_race(root, split, size):
        write_split(root, split, size)
        if not (tmp_path / "shapes").exists():
            (tmp_path / "ready").rename(tmp_path / "shapes")

    monkeypatch.setattr(shapes, "write_split", lose_race)
    make_shapes(tmp_path / "shapes", SIZES)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def other_version(root: Path) -> None:
    file = annotation_file(root, "val")
    file.write_text(json.dumps({**json.loads(file.read_text()), "info": {"version": "0"}}))


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (other_version, "instances_val.json is version '0'; delete the folder"),
        (lambda root: annotation_file(root, "train").unlink(), "instances_train.json is missing or corrupt"),
        (lambda root: annotation_file(root, "train").write_text("{"), "instances_train.json is missing or corrupt"),
    ],
    ids=["another version", "missing file", "corrupt file"],
)
def test_other_content_is_not_overwritten(tmp_path, corrupt, message):
    root = tmp_path / "shapes"
    make_shapes(root, SIZES)
    corrupt(root)
    before = digest(root)
    with pytest.raises(UserError, match=message):
        make_shapes(root, SIZES)
    assert digest(root) == before


def test_is_generated_when_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "make_shapes", lambda root: make_shapes(root, SIZES))
    dataset_dicts = load_shapes(tmp_path / "shapes", "val", "shapes_made_on_load")
    MetadataCatalog.remove("shapes_made_on_load")
    assert len(dataset_dicts) == 2


def test_inside_polygon_by_hand():
    square = np.array([[0, 0], [4, 0], [4, 2], [0, 2]], dtype=float)
    inside = inside_polygon(square, np.array([1.0, 5.0, -1.0]), np.array([1.0, 1.0, 1.0]))
    assert inside.tolist() == [True, False, False]


@pytest.mark.parametrize("name", sorted(CATEGORIES.values()))
def test_outline_has_its_circumscribed_radius(name):
    vertices = outline(name, 10.0, 0.3)
    radii = np.hypot(*vertices.T)
    assert radii.max() == pytest.approx(10)
    if name != "star":
        np.testing.assert_allclose(radii, 10)


def test_shapes_point_upwards():
    for name in ("triangle", "star"):
        assert outline(name, 1.0, 0.0)[0] == pytest.approx([0, -1])  # y grows downwards
    np.testing.assert_allclose(abs(outline("square", np.sqrt(2), 0.0)), 1)


def test_rle_agrees_with_pycocotools():
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


def test_objects_are_visible_in_the_image():
    # The mean color inside a mask differs from that around it by more than the background varies.
    drawn = draw_image(3)
    assert len(drawn.annotations) == 3
    image = drawn.image.astype(float)
    for annotation in drawn.annotations:
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


def test_drafts_of_killed_processes_are_removed(tmp_path):
    (tmp_path / ".shapes-abc" / "train").mkdir(parents=True)
    make_shapes(tmp_path / "shapes", {"train": 1, "val": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(UserError, match=r"shapes: cannot be written, since no space is left on the disk"):
        make_shapes(tmp_path / "shapes", {"train": 1, "val": 1})
    assert list(tmp_path.iterdir()) == []
