"""The datasets that ``data.*`` names: the same objects from every format, splits, held-out data, contradictory settings."""

import json
import logging
import re
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from flash_internimage.data.check import check_dataset
from flash_internimage.data.given import given_datasets
from flash_internimage.errors import UserError
from flash_internimage.model_zoo import get_config
from tests.data.formats.written import write_coco, write_voc, write_yolo

KEYS = get_config("dino_4scale_flash_internimage_t_1x_coco").data


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    """Six training and three validation images, as ``coco``, ``yolo`` and ``voc``."""
    root = tmp_path_factory.mktemp("datasets")
    write_coco(root / "coco", 6, 3)
    write_yolo(root / "coco", root / "yolo")
    write_voc(root / "coco", root / "voc")
    return root


@pytest.fixture
def given(tmp_path, monkeypatch, datasets):
    """A function that makes a config with settings of ``data``; paths are relative to the datasets."""
    monkeypatch.chdir(datasets)

    def given(**settings: object) -> DictConfig:
        cfg = OmegaConf.create({"data": KEYS, "train": {"output_dir": str(tmp_path / "output")}})
        for key, value in settings.items():
            OmegaConf.update(cfg, f"data.{key.replace('__', '.')}", value)
        return cfg

    return given


JSON = {f"{part}__{key}": value for part, split in (("train", "train"), ("test", "val")) for key, value in (
    ("json", f"coco/annotations/instances_{split}.json"), ("images", f"coco/{split}"))}  # fmt: skip
WAYS = {
    "YOLO": {"train__yolo": "yolo/data.yaml"},
    "YOLO, both splits": {"train__yolo": "yolo/data.yaml", "test__yolo": "yolo/data.yaml"},
    "VOC": {"train__voc": "voc"},
    "folder in COCO format": {"root": "coco"},
    "folder in YOLO format": {"root": "yolo"},
    "folder in VOC format": {"root": "voc"},
    "two formats": {"train__yolo": "yolo/data.yaml", "test__voc": "voc"},
}


def objects_of(dataset) -> list[tuple]:
    """Image name and size, class name, and box to a thousandth of a pixel of every object, sorted."""
    content = json.loads(Path(dataset.annotation_file).read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = {image["id"]: image for image in content["images"]}
    assert all((Path(dataset.image_root) / image["file_name"]).is_file() for image in images.values())
    empty = [(Path(image["file_name"]).name,) for image in images.values()]
    found = [
        (
            Path(images[a["image_id"]]["file_name"]).name,
            images[a["image_id"]]["width"],
            images[a["image_id"]]["height"],
            names[a["category_id"]],
            *(round(value, 3) for value in (*a["bbox"], a["area"])),
        )
        for a in content["annotations"]
    ]
    return sorted(empty + found)


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_every_format_holds_the_same_objects(given, settings):
    expected = given_datasets(given(**JSON))
    found = given_datasets(given(**settings))
    for part, number in (("train", 6), ("test", 3)):
        objects = objects_of(found[part])
        assert len({name for name, *_ in objects}) == number
        assert len(objects) > number
        assert objects == objects_of(expected[part]), part


def test_annotation_files_are_used_as_they_are(given, tmp_path):
    for settings in (JSON, {"root": "coco"}):
        found = given_datasets(given(**settings))
        assert found["train"] == ("coco/annotations/instances_train.json", "coco/train")
    assert not (tmp_path / "output").exists()


def test_evaluation_converts_the_test_data_alone(given, tmp_path):
    found = given_datasets(given(train__yolo="yolo/data.yaml"), parts=["test"])
    assert found["train"] is None
    assert len(objects_of(found["test"])) > 3
    assert [file.name for file in (tmp_path / "output/dataset").iterdir()] == ["test.json"]


def test_split_is_chosen_by_name(given):
    found = given_datasets(given(root="yolo", test__split="train", train__split="valid"))
    expected = given_datasets(given(**JSON))
    assert objects_of(found["train"]) == objects_of(expected["test"])
    with pytest.raises(UserError, match=r"data.test.split: expected a split of YOLO dataset .*yaml \(train, val\), got 'test'"):
        given_datasets(given(root="yolo", test__split="test"))


HELD_OUT = {
    "COCO": {"train__json": "coco/annotations/instances_train.json", "train__images": "coco/train"},
    "VOC": {"train__voc": "alone"},
}


@pytest.mark.parametrize("settings", HELD_OUT.values(), ids=HELD_OUT)
def test_held_out_images_are_recorded_and_stay(given, datasets, tmp_path, settings, caplog):
    if not (datasets / "alone").exists():
        write_voc(datasets / "coco", datasets / "alone")
        for file in (datasets / "alone/ImageSets/Main").iterdir():
            file.unlink()
    caplog.set_level(logging.INFO)
    cfg = given(**settings, val_fraction=0.34)
    found = given_datasets(cfg)
    sizes = {part: len({name for name, *_ in objects_of(dataset)}) for part, dataset in found.items()}
    assert sizes == ({"train": 4, "test": 2} if "train__json" in settings else {"train": 6, "test": 3})
    assert not {name for name, *_ in objects_of(found["train"])} & {name for name, *_ in objects_of(found["test"])}
    record = tmp_path / "output/dataset/split.json"
    assert cfg.data.val_split == str(record)
    assert f"{sizes['test']} of {sum(sizes.values())} images held out for evaluation, listed in {record}" in caplog.text

    # Another draw would be different, so the same images can only come from the record.
    content = json.loads(record.read_text())
    first_train = json.loads(Path(found["train"].annotation_file).read_text())["images"][0]["file_name"]
    content["val"][0] = first_train
    record.write_text(json.dumps(content))
    again = given_datasets(given(**settings, val_fraction=0.34))
    assert Path(first_train).name in {name for name, *_ in objects_of(again["test"])}
    elsewhere = given(**settings, val_fraction=0.34, val_split=str(record))
    elsewhere.train.output_dir = str(tmp_path / "elsewhere")
    assert objects_of(given_datasets(elsewhere, ["test"])["test"]) == objects_of(again["test"])
    assert not (tmp_path / "elsewhere/dataset/split.json").exists()


def test_an_annotation_file_is_parsed_once_to_hold_out_images(given, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "flash_internimage.data.check.json.load", lambda file: loaded.append(file.name) or json.loads(file.read())
    )
    given_datasets(given(**HELD_OUT["COCO"], val_fraction=0.34))
    assert [Path(name).name for name in loaded] == ["instances_train.json"]


def test_record_of_other_data_is_not_used(given, tmp_path):
    cfg = given(**HELD_OUT["COCO"], val_fraction=0.34)
    record = tmp_path / "output/dataset/split.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"val": ["other.jpg"], "val_fraction": 0.34, "val_seed": 0}')
    assert len({name for name, *_ in objects_of(given_datasets(cfg)["test"])}) == 2
    assert "other.jpg" not in record.read_text()


YOLO = {"train__yolo": "yolo/data.yaml"}
CONTRADICTIONS = {
    "data.train.json and data.train.yolo are given; expected one dataset": {**JSON, **YOLO},
    "data.test.json is given, but data.test.images is not": {**YOLO, "test__json": "a.json"},
    "data.val_fraction: expected training data without test data, to hold out a part of it, but data.test is given too": {
        **JSON, "val_fraction": 0.1},
    "data.val_fraction: expected training data without test data, to hold out a part of it, but no training data is given": {
        "val_fraction": 0.1},
    "data.val_fraction: expected data without a validation split, but YOLO dataset yolo/data.yaml has one": {
        **YOLO, "val_fraction": 0.1},
    "data.val_split: expected the record of a validation split, got gone.json, which does not exist": {
        **HELD_OUT["COCO"], "val_fraction": 0.1, "val_split": "gone.json"},
    "data.val_fraction: expected a number between 0 and 1, got 2": {**HELD_OUT["COCO"], "val_fraction": 2},
    "annotation file gone.json does not exist": {"train__json": "gone.json", "train__images": "coco", "val_fraction": 0.1},
}  # fmt: skip


@pytest.mark.parametrize(("message", "settings"), CONTRADICTIONS.items(), ids=CONTRADICTIONS)
def test_contradictions(given, message, settings):
    with pytest.raises(UserError, match=re.escape(message)):
        given_datasets(given(**settings))


def test_nothing_is_given(given):
    assert given_datasets(given()) == {"train": None, "test": None}
    old = OmegaConf.create({"data": {"train": {"json": None, "images": None}, "test": {"json": None, "images": None}}})
    assert given_datasets(old) == {"train": None, "test": None}, "a config that an earlier version saved"


def test_messages_name_the_line_of_a_label(given, datasets, tmp_path):
    write_yolo(datasets / "coco", tmp_path / "broken")
    label = next((tmp_path / "broken/labels/train").iterdir())
    label.write_text("0 0.95 0.5 0.9 0.1\n")
    cfg = given(train__yolo=str(tmp_path / "broken/data.yaml"), val_fraction=None)
    (warning,) = check_dataset(*given_datasets(cfg)["train"]).warnings
    assert f"box extends beyond its image and is clipped: object {label}:1: " in warning
