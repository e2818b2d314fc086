"""Recognition of exported folders by their contents: the layouts of Roboflow, CVAT, Label Studio and COCO."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from flash_internimage.data.formats import recognize
from flash_internimage.data.formats.contents import WHOLE
from flash_internimage.errors import UserError

COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 80}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 10, 20, 20]}],
        "categories": [{"id": 3, "name": "mug"}],
    }
)
IN_IMAGES = COCO.replace("a.jpg", "images/a.jpg")
YOLO = "0 0.125 0.5 0.25 0.5\n"
VOC = """<annotation><filename>a.jpg</filename><object><name>mug</name>
<bndbox><xmin>1</xmin><ymin>11</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object></annotation>"""
LABELED = {"labels/train/a.txt": YOLO, "labels/val/a.txt": YOLO, "images/train/a.jpg": "", "images/val/a.jpg": ""}

LAYOUTS = {
    "Roboflow COCO": {f"{split}/{name}": COCO for split in ("train", "valid") for name in ("_annotations.coco.json", "a.jpg")},
    "COCO 2017": {
        "annotations/instances_train2017.json": COCO,
        "annotations/instances_val2017.json": COCO,
        "annotations/captions_val2017.json": COCO,
        "train2017/a.jpg": "",
        "val2017/a.jpg": "",
    },
    "CVAT COCO": {
        "annotations/instances_train.json": COCO,
        "annotations/instances_val.json": COCO,
        "images/train/a.jpg": "",
        "images/val/a.jpg": "",
    },
    "Label Studio COCO": {"result.json": IN_IMAGES, "images/a.jpg": ""},
    "CVAT COCO without splits": {"annotations/instances_default.json": COCO, "images/default/a.jpg": ""},
    "Roboflow YOLO": {
        "data.yaml": "train: ../train/images\nval: ../valid/images\nnames: [mug]\n",
        **{f"{split}/labels/a.txt": YOLO for split in ("train", "valid")},
        **{f"{split}/images/a.jpg": "" for split in ("train", "valid")},
    },
    "Ultralytics": {"mugs.yaml": "train: images/train\nval: images/val\nnames: [mug]\n", **LABELED},
    "CVAT YOLO": {
        "data.yaml": "path: .\ntrain: train.txt\nval: val.txt\nnames: {0: mug}\n",
        "train.txt": "data/images/train/a.jpg\n",
        "val.txt": "data/images/val/a.jpg\n",
        **LABELED,
    },
    "CVAT YOLO 1.1": {
        "obj.data": "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
        "obj.names": "mug\n",
        "train.txt": "data/obj_train_data/a.jpg\n",
        "obj_train_data/a.jpg": "",
        "obj_train_data/a.txt": YOLO,
    },
    "Label Studio YOLO": {
        "classes.txt": "mug\n",
        "notes.json": '{"categories": [{"id": 0, "name": "mug"}]}',
        "images/a.jpg": "",
        "labels/a.txt": YOLO,
    },
    "Roboflow VOC": {f"{split}/{name}": VOC for split in ("train", "valid") for name in ("a.xml", "a.jpg")},
    "CVAT VOC": {
        "Annotations/a.xml": VOC,
        "JPEGImages/a.jpg": "",
        "ImageSets/Main/default.txt": "a\n",
        "labelmap.txt": "# label:color_rgb:parts:actions\nmug:0,0,0::\n",
    },
    "Label Studio VOC": {"Annotations/a.xml": VOC, "images/a.jpg": ""},
}
SPLITS = {
    **{name: ["train", "val"] for name in LAYOUTS},
    "CVAT YOLO 1.1": ["train"],
    **{name: [WHOLE] for name in LAYOUTS if "Label Studio" in name or name in ("CVAT VOC", "CVAT COCO without splits")},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """A function that writes the files of a dataset; ``.jpg`` files are images of 80 x 40 pixels."""

    def write(files: dict[str, str]) -> Path:
        root = tmp_path / "export"
        root.mkdir(exist_ok=True)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".jpg"):
                Image.new("RGB", (80, 40)).save(root / name)
            else:
                (root / name).write_text(text)
        return root

    return write


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_same_object(write, layout):
    source = recognize(write({**LAYOUTS[layout], "README.dataset.txt": "Exported"}))
    assert source.splits == SPLITS[layout]
    for split in source.splits:
        found = source.read(split)
        (image,) = found.content["images"]
        assert (Path(found.image_root) / image["file_name"]).is_file()
        assert (image["height"], image["width"]) == (40, 80)
        (annotation,) = found.content["annotations"]
        assert annotation["bbox"] == [0, 10, 20, 20]
        (category,) = found.content["categories"]
        assert category == {"id": annotation["category_id"], "name": "mug"}


def test_extracted_archive_with_a_folder_of_its_own(write):
    root = write({f"mugs.v1/{name}": text for name, text in LAYOUTS["Roboflow VOC"].items()})
    assert recognize(root).splits == ["train", "val"]


REFUSED = {
    "several formats": (
        {**LAYOUTS["Roboflow COCO"], "train/a.xml": VOC},
        r"got COCO and VOC; choose one by data.train.json and data.train.images or data.train.voc",
    ),
    "several annotation files": (
        {"train/a.json": COCO, "train/b.json": COCO},
        r"expected one annotation file of split train, got .*/a.json, .*/b.json; give one of them as data.train.json",
    ),
    "no annotations": (
        {"a.jpg": "", "notes.json": "{}"},
        r"expected a COCO, YOLO or Pascal VOC dataset .* got a.jpg, notes.json",
    ),
    "nothing": ({}, r"expected a COCO, YOLO or Pascal VOC dataset .* got nothing; check the path"),
    "damaged YAML": ({"mugs.yaml": "names: [mug", "a.jpg": ""}, r"expected a COCO, YOLO or Pascal VOC dataset"),
}


@pytest.mark.parametrize(("files", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_recognized(write, files, message):
    with pytest.raises(UserError, match=message):
        recognize(write(files))


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="data.root: expected an existing folder, got .*/gone; check the path"):
        recognize(tmp_path / "gone")


def test_images_of_an_annotation_file_are_elsewhere(write):
    root = write({"annotations/instances_train.json": COCO})
    source = recognize(root)
    with pytest.raises(
        UserError, match=re.escape("expected its first image, a.jpg, in one of ") + ".*name their folder as data"
    ):
        source.files("train")
