"""Converting detections from the command line."""

import json

import pytest


@pytest.fixture
def detections(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "photos/a.jpg", "height": 100, "width": 200}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [40, 20, 80, 40], "score": 0.75}],
        "categories": [{"id": 1, "name": "mug"}],
    }
    (tmp_path / "detections.json").write_text(json.dumps(content))
    return tmp_path / "detections.json"


@pytest.mark.parametrize(
    ("format_", "files"),
    [
        ("cvat", ["annotations.xml"]),
        ("label-studio", ["labeling_config.xml", "tasks.json"]),
        ("voc", ["Annotations/a.xml"]),
        ("yolo", ["data.yaml", "labels/a.txt"]),
    ],
)
def test_files_of_a_format(flash_internimage, detections, tmp_path, format_, files):
    done = flash_internimage("convert-results", "--format", format_, detections, "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()) == files
    number = "1 file" if len(files) == 1 else f"{len(files)} files"
    assert done.stdout == f"{tmp_path / 'out'}: {number}, 1 object in 1 image\n"


def test_polygons_of_boxes(flash_internimage, detections, tmp_path):
    done = flash_internimage("convert-results", "--format", "yolo", "--polygons", detections, "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert len((tmp_path / "out/labels/a.txt").read_text().split()) == 1 + 4 * 2


@pytest.mark.parametrize("flags", [["--polygons"], ["--scores"], ["--image-root", "x/"]])
def test_flag_of_another_format_is_a_wrong_argument(flash_internimage, detections, tmp_path, flags):
    done = flash_internimage("convert-results", "--format", "voc", detections, "--output", tmp_path / "out", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert flags[0] in done.stderr
    assert not (tmp_path / "out").exists()


def test_annotations_are_replaced_only_with_overwrite(flash_internimage, detections, tmp_path):
    corrected = tmp_path / "out/labels/a.txt"
    corrected.parent.mkdir(parents=True)
    corrected.write_text("corrected by hand")
    arguments = ["convert-results", "--format", "yolo", detections, "--output", tmp_path / "out"]
    done = flash_internimage(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"{corrected}: exists already" in done.stderr
    assert "--overwrite" in done.stderr
    assert corrected.read_text() == "corrected by hand"
    assert not (tmp_path / "out/data.yaml").exists()  # nothing is written at all
    assert flash_internimage(*arguments, "--overwrite").returncode == 0
    assert corrected.read_text().startswith("0 ")
