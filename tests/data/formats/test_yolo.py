"""YOLO datasets: the layouts that tools write, the coordinates of boxes and polygons, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from flash_internimage.data.formats.contents import WHOLE
from flash_internimage.data.formats.yolo import label_file, read_classes_txt, read_darknet, read_data_yaml
from flash_internimage.errors import UserError


def write_image(file: Path, width: int = 80, height: int = 40) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(file)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a dataset of one labeled and one unlabeled image of 80 x 40 pixels, and returns its data.yaml."""

    def write(labels: str = "0 0.5 0.5 0.25 0.5\n", yaml: str = "names: [mug, spoon]\ntrain: images\n") -> Path:
        write_image(tmp_path / "images/1.png")
        write_image(tmp_path / "images/2.png")
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels/1.txt").write_text(labels)
        (tmp_path / "data.yaml").write_text(yaml)
        return tmp_path / "data.yaml"

    return write


def test_box_and_polygon_by_hand(write, tmp_path):
    found = read_data_yaml(write("1 0.5 0.5 0.25 0.5\n\n0 0.25 0.5 0.5 0.5 0.5 1\n")).read("train")
    assert found.image_root == str(tmp_path)
    assert found.content["categories"] == [{"id": 0, "name": "mug"}, {"id": 1, "name": "spoon"}]
    assert found.content["images"] == [
        {"id": 1, "file_name": "images/1.png", "height": 40, "width": 80},
        {"id": 2, "file_name": "images/2.png", "height": 40, "width": 80},
    ]
    box, triangle = found.content["annotations"]
    assert (box["image_id"], box["category_id"], box["bbox"], box["area"]) == (1, 1, [30.0, 10.0, 20.0, 20.0], 400.0)
    assert "segmentation" not in box
    assert box["place"] == f"{tmp_path}/labels/1.txt:1"
    assert triangle["place"].endswith(":3")
    assert triangle["segmentation"] == [[20.0, 20.0, 40.0, 20.0, 40.0, 40.0]]
    assert triangle["bbox"] == [20.0, 20.0, 20.0, 20.0]
    assert triangle["area"] == 200.0


def test_polygon_is_clipped_to_the_image(write):
    (annotation,) = read_data_yaml(write("0 -0.005 0 1.004 0 1 1")).read("train").content["annotations"]
    assert annotation["segmentation"] == [[0.0, 0.0, 80.0, 0.0, 80.0, 40.0]]


def test_keypoints_of_a_pose_dataset_are_ignored(write):
    file = write("0 0.5 0.5 0.25 0.5 0.1 0.2 2 0.3 0.4 0\n", "names: [mug]\ntrain: images\nkpt_shape: [2, 3]\n")
    (annotation,) = read_data_yaml(file).read("train").content["annotations"]
    assert annotation["bbox"] == [30.0, 10.0, 20.0, 20.0]
    assert "segmentation" not in annotation


def test_rotated_image_has_the_size_that_is_shown(write, tmp_path):
    file = write()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (80, 40)).save(tmp_path / "images/1.png", exif=exif)
    found = read_data_yaml(file).read("train").content
    assert (found["images"][0]["height"], found["images"][0]["width"]) == (80, 40)
    assert found["annotations"][0]["bbox"] == [15.0, 20.0, 10.0, 40.0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names: {0: mug, 1: spoon}", ["mug", "spoon"]),
        ("names:\n  1: spoon\n  0: mug\nnc: 2", ["mug", "spoon"]),
        ("nc: 2", ["class 0", "class 1"]),
        ("names: [1, true]", ["1", "True"]),
    ],
)
def test_names(write, names, expected):
    assert read_data_yaml(write(yaml=f"{names}\ntrain: images\n")).names == expected


def test_roboflow_layout(tmp_path):
    for split in ("train", "valid", "test"):
        write_image(tmp_path / split / "images/a.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels/a.txt").write_text("0 0.5 0.5 1 1\n")
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\nnames: ['mug']\n"
        "roboflow:\n  workspace: mine\n"
    )
    dataset = read_data_yaml(tmp_path / "data.yaml")
    assert dataset.splits == ["train", "val", "test"]
    assert [image["file_name"] for image in dataset.read("val").content["images"]] == ["valid/images/a.jpg"]


def test_lists_of_images_and_several_folders(write, tmp_path):
    """As CVAT writes it: the paths in a list start with ``data/``, or with ``./`` for its own folder."""
    file = write(yaml="path: .\nnames: [mug]\ntrain: [list.txt, more]\nval: images/2.png\n")
    write_image(tmp_path / "more/images/3.png")
    (tmp_path / "list.txt").write_text("data/images/1.png\n\n./images/2.png\n")
    dataset = read_data_yaml(file)
    assert [image["file_name"] for image in dataset.read("train").content["images"]] == [
        "images/1.png",
        "images/2.png",
        "more/images/3.png",
    ]
    (tmp_path / "labels/2.txt").write_text("")
    assert [image["file_name"] for image in dataset.read("val").content["images"]] == ["images/2.png"]


def test_images_outside_the_dataset_have_their_common_parent_as_root(write, tmp_path):
    file = write()
    (tmp_path / "yaml").mkdir()
    moved = file.rename(tmp_path / "yaml/data.yaml")
    moved.write_text(f"names: [mug]\ntrain: {tmp_path}/images\n")
    found = read_data_yaml(moved).read("train")
    assert found.image_root == str(tmp_path / "images")
    assert [image["file_name"] for image in found.content["images"]] == ["1.png", "2.png"]


def test_darknet_layout(tmp_path):
    write_image(tmp_path / "obj_train_data/a.jpg")
    (tmp_path / "obj_train_data/a.txt").write_text("1 0.5 0.5 1 1")
    (tmp_path / "obj.names").write_text("mug\nspoon\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.jpg\n")
    (tmp_path / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    dataset = read_darknet(tmp_path)
    assert dataset.splits == ["train"]
    assert dataset.names == ["mug", "spoon"]
    assert dataset.read("train").content["annotations"][0]["bbox"] == [0.0, 0.0, 80.0, 40.0]
    (tmp_path / "train.txt").unlink()
    with pytest.raises(
        UserError, match="obj.data: expected names, train and valid to be existing files, got train = data/train"
    ):
        read_darknet(tmp_path)


def test_label_studio_layout(write, tmp_path):
    write()
    (tmp_path / "classes.txt").write_text("mug\nspoon\n")
    dataset = read_classes_txt(tmp_path)
    assert dataset.splits == [WHOLE]
    assert len(dataset.read(WHOLE).content["annotations"]) == 1
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(UserError, match="classes.txt: expected one class name per line, got none"):
        read_classes_txt(tmp_path)


def test_only_the_last_folder_of_images_is_replaced():
    assert label_file(Path("images/mugs/images/train/1.2.jpg")) == Path("images/mugs/labels/train/1.2.txt")
    assert label_file(Path("mugs/images.jpg")) == Path("mugs/images.txt")


LINES = {
    "0 0.5 0.5 0.25": 'expected "class x_center y_center width height" (a box) or',
    "0 0.5 0.5 0.25 0.5 0.9": "got 6 numbers; a sixth number would be a confidence, which labels do not have",
    "0 0.5 0.5 0.25 0.5 0.1 0.2 0.3": "got 8 numbers; correct the line",
    "mug 0.5 0.5 0.25 0.5": "got 'mug 0.5 0.5 0.25 0.5'; correct the line",
    "2 0.5 0.5 0.25 0.5": "expected a class number from 0 to 1 (spoon), got 2; correct it, or add the class to the names",
    "-1 0.5 0.5 0.25 0.5": "expected a class number from 0 to 1 (spoon), got -1",
    "0.5 0.5 0.5 0.25 0.5": "expected a class number from 0 to 1 (spoon), got 0.5",
    "nan 0.5 0.5 0.25 0.5": "expected a class number from 0 to 1 (spoon), got nan",
    "0 40 20 20 20": "expected coordinates from 0 to 1, relative to the size of the image, got 40; divide pixels by the size",
    "0 0.5 0.5 -0.25 0.5": "got -0.25; correct the line",
    "0 0.5 nan 0.25 0.5": "got nan; correct the line",
    "0 0.5 inf 0.25 0.5": "got inf; correct the line",
}


@pytest.mark.parametrize(("line", "message"), LINES.items(), ids=LINES)
def test_malformed_line_names_file_and_line(write, tmp_path, line, message):
    dataset = read_data_yaml(write(f"0 0.5 0.5 0.25 0.5\n{line}\n"))
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/labels/1.txt:2: ") + ".*" + re.escape(message)):
        dataset.read("train")


YAMLS = {
    "names: [mug\ntrain: images": "data.yaml:2: expected YAML, got: ",
    "- mug": "expected keys names, train and val, got ['mug']",
    "train: images": "expected names, the list of the classes, got None",
    "names: []\ntrain: images": "expected names, the list of the classes, got []",
    "names: {1: mug, 2: spoon}\ntrain: images": "expected names to be numbered 0 to 1, got [1, 2]",
    "names: [mug]\nnc: 2\ntrain: images": "expected nc to be the number of names, 1, got 2",
    "names: [mug]": "expected train and val, folders of images, got neither",
    "names: [mug]\ntrain: 3": "expected train to be a path or a list of paths, got 3",
    "names: [mug]\ntrain: images\nkpt_shape: 3": "expected kpt_shape to be [number of keypoints, 2 or 3], got 3",
}


@pytest.mark.parametrize(("yaml", "message"), YAMLS.items(), ids=YAMLS.values())
def test_malformed_yaml(write, yaml, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_data_yaml(write(yaml=yaml))


def test_missing_files(write, tmp_path):
    with pytest.raises(UserError, match=r"gone.yaml: expected an existing file, data.yaml, got none; check the path"):
        read_data_yaml(tmp_path / "gone.yaml")
    file = write(yaml="names: [mug]\ntrain: gone\nval: empty\ntest: list.txt\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("images/1.png\nimages/7.png\n")
    dataset = read_data_yaml(file)
    with pytest.raises(UserError, match=r"split train, got .*/gone, which does not exist; correct the path"):
        dataset.read("train")
    with pytest.raises(UserError, match=r"expected images of split val in .*/empty, got none; check the path"):
        dataset.read("val")
    with pytest.raises(UserError, match=r"list.txt:2: expected the path of an image, .* got 'images/7.png', which does not"):
        dataset.read("test")


def test_labels_in_the_wrong_place(write, tmp_path):
    file = write()
    (tmp_path / "labels").rename(tmp_path / "label")
    with pytest.raises(UserError, match=r"of split train, got none; the labels of .*/images/1.png belong into .*/labels/1.txt"):
        read_data_yaml(file).read("train")


def test_damaged_files_are_named(write, tmp_path):
    file = write()
    (tmp_path / "labels/1.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(UserError, match=r"labels/1.txt: expected text in UTF-8, got other bytes"):
        read_data_yaml(file).read("train")
    (tmp_path / "images/1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"images/1.png: not a readable image"):
        read_data_yaml(file).read("train")
