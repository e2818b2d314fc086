"""Pascal VOC datasets: the layouts that tools write, the coordinates of boxes and polygons, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from flash_internimage.data.formats.contents import WHOLE
from flash_internimage.data.formats.voc import read_voc
from flash_internimage.errors import UserError

BOX = "<bndbox><xmin>1</xmin><ymin>11</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>"
MUG = f"<object><name>mug</name>\n{BOX}</object>"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes an image of 80 x 40 pixels and its XML file, and returns the folder of the dataset."""

    def write(
        objects: str = MUG,
        name: str = "1.png",
        xml: str = "Annotations",
        images: str = "JPEGImages",
        filename: str | None = None,
        size: str = "<size><width>80</width><height>40</height></size>",
    ) -> Path:
        root = tmp_path / "voc"
        for folder in (xml, images):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 40)).save(root / images / name)
        text = f"<annotation>\n<filename>{filename or name}</filename>\n{size}\n{objects}\n</annotation>"
        (root / xml / name).with_suffix(".xml").write_text(text)
        return root

    return write


def test_box_and_polygons_by_hand(write):
    """The first pixel is 1, and the last one belongs to the box: 20 pixels from 1 to 20, 20 from 11 to 30."""
    triangle = "<polygon><x1>1</x1><y1>11</y1><x2>21</x2><y2>11</y2><x3>21</x3><y3>31</y3></polygon>"
    line = "<polygon><x1>1</x1><y1>1</y1><x2>2</x2><y2>2</y2></polygon>"
    with_masks = f"<object><name>spoon</name><difficult>1</difficult>{BOX}{triangle}{line}{triangle}</object>"
    root = write(MUG + with_masks)
    found = read_voc(root).read(WHOLE)
    assert found.image_root == str(root)
    assert found.content["categories"] == [{"id": 1, "name": "mug"}, {"id": 2, "name": "spoon"}]
    assert found.content["images"] == [{"id": 1, "file_name": "JPEGImages/1.png", "height": 40, "width": 80}]
    mug, spoon = found.content["annotations"]
    assert (mug["category_id"], mug["bbox"], mug["area"], mug["iscrowd"]) == (1, [0.0, 10.0, 20.0, 20.0], 400.0, 0)
    assert mug["place"] == f"{root}/Annotations/1.xml:4"
    assert "segmentation" not in mug
    assert (spoon["category_id"], spoon["iscrowd"]) == (2, 0)
    assert spoon["segmentation"] == [[0.0, 10.0, 20.0, 10.0, 20.0, 30.0]] * 2
    assert spoon["area"] == 400.0


def test_coordinates_counted_from_0_stay_in_the_image(write):
    root = write(MUG.replace("<xmin>1<", "<xmin>0.0<"))
    assert read_voc(root).read(WHOLE).content["annotations"][0]["bbox"] == [0.0, 10.0, 20.0, 20.0]


def test_splits_are_lists(write):
    for name in ("1.png", "2.png", "3.png"):
        root = write(name=name)
    write("", name="4.png")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("1\n3\n")
    (root / "ImageSets/Main/val.txt").write_text("4\n")
    (root / "ImageSets/Main/mug_train.txt").write_text("1 1\n3 -1\n")
    dataset = read_voc(root)
    assert dataset.splits == ["train", "val"]
    found = dataset.read("train").content
    assert [image["file_name"] for image in found["images"]] == ["JPEGImages/1.png", "JPEGImages/3.png"]
    found = dataset.read("val").content
    assert found["categories"] == [{"id": 1, "name": "mug"}], "of all splits"
    assert (len(found["images"]), found["annotations"]) == (1, [])
    (root / "ImageSets/Main/val.txt").write_text("4\n5\n")
    with pytest.raises(
        UserError, match=r"Main/val.txt:2: expected the name of a file in .*/Annotations, .* got '5'; add 5.xml"
    ):
        read_voc(root)


def test_roboflow_layout(write):
    write(name="1.png", xml="train", images="train")
    write(MUG.replace("mug", "fork"), name="1.png", xml="valid", images="valid")
    root = write(name="1.png", xml="test", images="test")
    dataset = read_voc(root)
    assert dataset.splits == ["train", "val", "test"]
    assert dataset.names == ["fork", "mug"]
    assert dataset.read("val").content["images"][0]["file_name"] == "valid/1.png"


@pytest.mark.parametrize(
    "where",
    [
        {"images": "images"},
        {"xml": ".", "images": "."},
        {"filename": "C:\\photos\\1.png"},
        {"filename": "1.jpeg"},
        {"xml": "Annotations/kitchen", "images": "JPEGImages/kitchen"},
        {"xml": "Annotations/kitchen", "images": "JPEGImages/kitchen", "filename": "kitchen/1.png"},
    ],
    ids=["Label Studio", "one folder", "another computer", "another suffix", "subfolders", "subfolders with path"],
)
def test_image_is_found(write, where):
    root = write(**where)
    (image,) = read_voc(root).read(WHOLE).content["images"]
    assert (root / image["file_name"]).is_file()


def test_datasets_share_their_classes(write, tmp_path):
    first = write(MUG.replace("mug", "spoon")).rename(tmp_path / "first")
    one, other = read_voc(first), read_voc(write())
    one.share_classes(other)
    assert one.names == other.names == ["mug", "spoon"]
    assert other.read(WHOLE).content["annotations"][0]["category_id"] == 1


def test_size_is_that_of_the_image_if_it_is_not_annotated(write):
    for size in ("", "<size><width>0</width><height>0</height></size>"):
        (image,) = read_voc(write(size=size)).read(WHOLE).content["images"]
        assert (image["height"], image["width"]) == (40, 80)


OBJECTS = {
    ":4: expected the object's class in <name>, got none": f"<object><name> </name>{BOX}</object>",
    ":4: expected the object's <bndbox>, got none": "<object><name>mug</name></object>",
    ":5: expected a number of pixels in <xmax>, got 'wide'": MUG.replace(">20<", ">wide<"),
    ":5: expected a number of pixels in <xmax>, got 'nan'": MUG.replace(">20<", ">nan<"),
    ":5: expected a number of pixels in <ymin>, got ''": MUG.replace("<ymin>11</ymin>", ""),
    ":5: expected xmin <= xmax and ymin <= ymax, got x 1 to 20 and y 50 to 30": MUG.replace(">11<", ">50<"),
    ":4: expected a number of pixels in <y1>, got ''": f"<object><name>mug</name>{BOX}<polygon><x1>3</x1></polygon></object>",
    ":4: expected XML, got: mismatched tag": "<object>",
}


@pytest.mark.parametrize(("message", "objects"), OBJECTS.items(), ids=OBJECTS)
def test_malformed_object_names_file_and_line(write, message, objects):
    root = write(objects + ("" if "mismatched" not in message else "</annotation>"))
    with pytest.raises(UserError, match=re.escape(f"{root}/Annotations/1.xml{message}")):
        read_voc(root).read(WHOLE)


def test_other_files(write, tmp_path):
    with pytest.raises(UserError, match="gone: expected an existing folder, got none"):
        read_voc(tmp_path / "gone")
    with pytest.raises(
        UserError, match="expected XML files in Annotations, in the folder itself or in train and valid, got none"
    ):
        read_voc(tmp_path)
    root = write(size="<size><width>wide</width><height>40</height></size>")
    with pytest.raises(UserError, match="1.xml:3: expected <width> and <height> to be whole numbers of pixels, got 'wide'"):
        read_voc(root).read(WHOLE)
    (root / "Annotations/1.xml").write_text("<html/>")
    with pytest.raises(UserError, match="1.xml:1: expected an <annotation> of Pascal VOC, got <html>"):
        read_voc(root).read(WHOLE)
    (root / "Annotations/1.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]>\n<annotation>&b;</annotation>')
    with pytest.raises(UserError, match="1.xml:1: expected XML without entities"):
        read_voc(root).read(WHOLE)
    for encoding in ("gbk", "no-such-encoding"):
        (root / "Annotations/1.xml").write_text(f'<?xml version="1.0" encoding="{encoding}"?><annotation/>')
        with pytest.raises(UserError, match="1.xml.*: expected XML"):
            read_voc(root).read(WHOLE)


def test_missing_image(write):
    root = write()
    (root / "JPEGImages/1.png").unlink()
    with pytest.raises(
        UserError, match=r"1.xml: expected its image 1.png in .*/JPEGImages, .*Annotations, got none; add the image"
    ):
        read_voc(root).read(WHOLE)
