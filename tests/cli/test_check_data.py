"""The check-data command: what it prints for valid and for damaged data, its exit code, its visualizations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.formats.written import write_coco, write_voc, write_yolo

SQUARE = [[10, 10, 40, 10, 40, 40, 10, 40]]


@pytest.fixture
def content() -> dict:
    """An annotation file of three images with two categories."""
    box = {"bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0, "segmentation": SQUARE}
    return {
        "images": [{"id": 5 * n, "file_name": f"{n}.png", "height": 60, "width": 80} for n in (1, 2, 3)],
        "categories": [{"id": 42, "name": "mug"}, {"id": 7, "name": "spoon"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 42, **box},
            {"id": 2, "image_id": 10, "category_id": 42, **box},
            {"id": 3, "image_id": 10, "category_id": 7, **box, "bbox": [0, 0, 50, 50]},
        ],
    }


@pytest.fixture
def run(flash_internimage: Callable, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run the command on an annotation file and images; return its exit code and stdout."""
    images = tmp_path / "own images"
    images.mkdir()
    for number in (1, 2, 3):
        Image.fromarray(np.full((60, 80, 3), 60 * number, dtype=np.uint8)).save(images / f"{number}.png")

    def run(content: dict, *options: str) -> tuple[int, str]:
        (tmp_path / "a.json").write_text(json.dumps(content))
        done = flash_internimage("check-data", "--json", tmp_path / "a.json", "--images", images, *options)
        return done.returncode, done.stdout

    return run


def test_sound_data(run, content):
    code, output = run(content)
    assert code == 0
    lines = [line.split() for line in output.splitlines()]
    assert lines[0] == ["images", "3,", "of", "them", "without", "objects", "1"]
    assert lines[1] == ["sizes", "80", "x", "60", "pixels"]
    assert lines[2] == ["annotations", "3,", "of", "them", "to", "train", "on", "3"]
    assert lines[3] == ["objects", "2", "small,", "1", "medium,", "0", "large"]
    assert ["0", "7", "spoon", "1", "33.3%", "1"] in lines
    assert ["1", "42", "mug", "2", "66.7%", "2"] in lines
    assert output.endswith("\n0 errors, 0 warnings\n")


def test_what_only_shows_when_images_are_opened(run, content, tmp_path):
    whole = (tmp_path / "own images/1.png").read_bytes()
    (tmp_path / "own images/1.png").write_bytes(whole[: len(whole) // 2])
    content["images"][1].update(height=80, width=60)
    code, output = run(content)
    assert code == 1
    first, second, total = output.splitlines()[-3:]
    assert first.startswith(f"error: {tmp_path}/own images/1.png, referenced by image 5 of ")
    assert "is not a readable image" in first
    assert "should be 60 x 80 pixels as annotated, but is 80 x 60 (width and height are swapped" in second
    assert total == "2 errors, 0 warnings"


def test_missing_image_is_named_once(run, content, tmp_path):
    (tmp_path / "own images/2.png").unlink()
    code, output = run(content)
    assert code == 1
    assert output.count("2.png") == 1
    assert "1 error, 0 warnings" in output


def test_warnings_are_no_errors(run, content):
    content["categories"].append({"id": 9, "name": "fork"})
    code, output = run(content)
    assert code == 0
    assert "warning: annotation file" in output
    assert "category has no objects: 9 (fork)" in output
    assert output.endswith("0 errors, 1 warning\n")


def test_many_damaged_images_are_not_all_listed(run, content, tmp_path):
    content["images"] += [{"id": 100 + n, "file_name": "gone.txt", "height": 1, "width": 1} for n in range(14)]
    (tmp_path / "own images/gone.txt").write_text("no image")
    code, output = run(content)
    assert code == 1
    assert output.count("not a readable image") == 1, "one file, however often it is listed"
    for n in range(14):
        content["images"][3 + n]["file_name"] = f"{n}.txt"
        (tmp_path / f"own images/{n}.txt").write_text("no image")
    code, output = run(content)
    assert output.count("not a readable image") == 10
    assert "error: and 4 more" in output
    assert "14 errors" in output


def test_unusable_annotation_file(run):
    code, output = run({"images": []})
    assert code == 1
    assert "there are no categories" in output


def test_pictures(run, content, tmp_path):
    code, output = run(content, "--output", str(tmp_path / "check"), "--limit", "2")
    assert code == 0
    assert f"2 images with objects: {tmp_path}/check/grid.png" in output
    with Image.open(tmp_path / "check/grid.png") as grid:
        assert grid.size == (2 * 320 + 24, 336)
        assert len(grid.getcolors(1 << 20)) > 20, "more than the gray of the images and the white between"


DAMAGED = {
    "mask of another size": {"segmentation": {"size": [80, 60], "counts": [4800]}},
    "polygon of two corners": {"segmentation": [[1, 2, 3, 4]]},
    "mask that is text": {"segmentation": "x"},
    "no mask": {"segmentation": None},
    "no box": {"bbox": None},
    "box that is not finite": {"bbox": [1, 2, float("nan"), 4]},
    "box that is empty": {"bbox": [10, 10, 0, 0]},
    "box outside": {"bbox": [500, 500, 10, 10]},
    "crowd": {"iscrowd": 1, "segmentation": {"size": [60, 80], "counts": [100, 200, 4500]}},
    "unknown category": {"category_id": 1},
    "unknown image": {"image_id": 1},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_damaged_is_drawn_as_far_as_it_can_be(run, content, tmp_path, damage):
    content["annotations"][0].update(damage)
    _, output = run(content, "--output", str(tmp_path / "check"))
    assert "3 images with objects" in output
    assert (tmp_path / "check/grid.png").is_file()


HOSTILE = {
    "image id of a list": lambda c: c["images"][0].update(id=[5]),
    "file name of a number": lambda c: c["images"][0].update(file_name=1),
    "width of text": lambda c: c["images"][0].update(width="80"),
    "annotation's image of a list": lambda c: c["annotations"][0].update(image_id=[5]),
    "category of a list": lambda c: c["annotations"][0].update(category_id=[42]),
    "annotations of null": lambda c: c.update(annotations=None),
    "annotation of null": lambda c: c["annotations"].append(None),
    "polygon with NaN": lambda c: c["annotations"][0].update(segmentation=[[1, 1, float("nan"), 5, 9, 9]]),
    "polygon far away": lambda c: c["annotations"][0].update(segmentation=[[1, 1, 1e8, 5, 9, 9]]),
    "run lengths beyond the image": lambda c: c["annotations"][0].update(segmentation={"size": [60, 80], "counts": [10, 9000]}),
    "crowd regions alone": lambda c: [a.update(iscrowd=1) for a in c["annotations"]],
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_invalid_contents_are_reported_and_not_drawn(run, content, tmp_path, change):
    change(content)
    code, output = run(content, "--output", str(tmp_path / "check"))
    assert code == 1
    assert output.splitlines()[-1] == f"1 error, {(warnings := output.count('warning: '))} warning{'s' * (warnings != 1)}"
    assert f"error: annotation file {tmp_path / 'a.json'}: " in output


def test_deep_image_is_an_error(run, content, tmp_path):
    Image.fromarray(np.full((60, 80), 40000, dtype=np.uint16)).save(tmp_path / "own images/1.png")
    code, output = run(content)
    assert code == 1
    assert "1.png, referenced by image 5 of" in output
    assert "has one channel of 16 bits" in output


@pytest.fixture
def other_formats(tmp_path: Path) -> Path:
    """Folder with the same shapes as ``yolo`` and ``voc``, three for training and two for validation."""
    write_coco(tmp_path / "coco", 3, 2)
    write_yolo(tmp_path / "coco", tmp_path / "yolo")
    write_voc(tmp_path / "coco", tmp_path / "voc")
    return tmp_path


@pytest.mark.parametrize(
    ("flag", "path"), [("--yolo", "yolo/data.yaml"), ("--voc", "voc"), ("--root", "yolo"), ("--root", "coco")]
)
def test_other_formats(flash_internimage, other_formats, flag, path):
    done = flash_internimage("check-data", flag, other_formats / path, "--output", other_formats / "check")
    assert done.returncode == 0
    assert done.stdout.startswith("images       3, ")
    assert (other_formats / "check/grid.png").is_file()
    done = flash_internimage("check-data", flag, other_formats / path, "--split", "valid")
    assert done.stdout.startswith("images       2, ")


def test_damaged_image_of_a_yolo_dataset(flash_internimage, other_formats):
    image = next((other_formats / "yolo/images/train").iterdir())
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    done = flash_internimage("check-data", "--yolo", other_formats / "yolo/data.yaml")
    assert done.returncode == 1
    assert (
        f"error: {image}, referenced by image 1 of YOLO dataset {other_formats}/yolo/data.yaml, is not a readable"
        in done.stdout
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected --json and --images, --yolo, --voc or --root"),
        (["--yolo", "a.yaml", "--voc", "b"], "--yolo and --voc are given; expected one dataset, so remove one of them"),
        (["--json", "a.json"], "--json is given, but --images is not"),
        (["--root", "gone"], "expected an existing folder, got gone"),
    ],
)
def test_which_dataset(flash_internimage, flags, message):
    done = flash_internimage("check-data", *flags)
    assert done.returncode != 0
    assert message in done.stderr
