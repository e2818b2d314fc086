"""Two evaluations side by side."""

import json

import pytest

from flash_internimage.evaluation.scores import METRICS


def record(figures, classes, annotations="val.json"):
    """A record of boxes: AP of all, and AP and AP50 of each class."""
    by_category = {
        str(id_): dict.fromkeys(METRICS, None) | {"AP": ap, "AP50": None if ap is None else ap + 20}
        for id_, ap in enumerate(classes.values(), start=1)
    }
    return {
        "dataset": "cups",
        "annotation_file": annotations,
        "image_root": None,
        "num_images": 5,
        "categories": [{"id": id_, "name": name, "objects": 3} for id_, name in enumerate(classes, start=1)],
        "tasks": {
            task: {"metrics": dict.fromkeys(METRICS, 1.0) | {"AP": ap}, "by_category": by_category, "precision": [[[0.0]]]}
            for task, ap in figures.items()
        },
    }


@pytest.fixture
def compare(flash_internimage, tmp_path):
    def compare(a, b, *argv):
        for name, content in (("a", a), ("b", b)):
            (tmp_path / name / "inference").mkdir(parents=True)
            (tmp_path / name / "inference" / "evaluation.json").write_text(json.dumps(content))
        done = flash_internimage("compare", tmp_path / "a", tmp_path / "b", *argv)
        return done.returncode, [line.split() for line in done.stdout.splitlines()], done.stderr

    return compare


BEFORE = record({"bbox": 40.0, "segm": 35.0}, {"mug": 30.0, "spoon": 50.0, "fork": None})
AFTER = record({"bbox": 42.5, "segm": 34.0}, {"mug": 31.0, "spoon": 45.0, "fork": None})


def test_figures_and_differences(compare):
    code, lines, err = compare(BEFORE, AFTER)
    assert (code, err) == (0, "")
    assert ["AP", "40.00", "42.50", "+2.50"] in lines
    assert ["AP", "35.00", "34.00", "-1.00"] in lines
    assert ["AP75", "1.00", "1.00", "+0.00"] in lines
    assert ["mask", "A", "B", "B", "-", "A"] in lines


def test_classes_that_differ_most_come_first(compare):
    _, lines, _ = compare(BEFORE, AFTER)
    start = lines.index(["box", "AP", "A", "B", "B", "-", "A"])
    assert lines[start + 2 : start + 5] == [
        ["spoon", "50.00", "45.00", "-5.00"],
        ["mug", "30.00", "31.00", "+1.00"],
        ["fork", "–", "–"],
    ]


def test_another_metric_of_some_classes(compare):
    _, lines, _ = compare(BEFORE, AFTER, "--metric", "AP50", "--classes", "1")
    assert ["spoon", "70.00", "65.00", "-5.00"] in lines
    assert not any(line[:1] == ["mug"] for line in lines)


def test_other_data_and_classes_are_told(compare):
    code, lines, err = compare(BEFORE, record({"bbox": 1.0}, {"mug": 3.0, "plate": 9.0}, "test.json"))
    assert code == 0
    assert "the annotations differ: val.json and test.json" in err
    assert "the classes differ: fork, plate, spoon in one of them only" in err
    assert ["mug", "30.00", "3.00", "-27.00"] in lines
    assert not any("mask" in line for line in lines)


def test_nothing_in_common(compare):
    code, _, err = compare(record({"bbox": 1.0}, {"mug": 3.0}), record({"segm": 1.0}, {"mug": 3.0}))
    assert code == 1
    assert "nothing to compare: A has figures of bbox, B of segm" in err


def test_a_folder_without_an_evaluation(flash_internimage, tmp_path):
    done = flash_internimage("compare", tmp_path, tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"flash-internimage compare: error: {tmp_path}: holds no evaluation.json; give the output folder of an evaluation "
        "(flash-internimage eval)\n"
    )


def test_copies_of_the_annotations_are_the_same_data(compare, tmp_path):
    """Each run converts a YOLO or VOC dataset to an annotation file of its own."""
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        file.write_text("{}")
    code, _, err = compare(*(record({"bbox": 1.0}, {"mug": 3.0}, str(file)) for file in files))
    assert (code, err) == (0, "")


def test_annotations_of_the_same_size_differ(compare, tmp_path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, text in zip(files, ("{}", "[]"), strict=True):
        file.write_text(text)
    _, _, err = compare(*(record({"bbox": 1.0}, {"mug": 3.0}, str(file)) for file in files))
    assert f"the annotations differ: {files[0]} and {files[1]}" in err


def without(key):
    return lambda content: content.pop(key)


BAD_EVALUATIONS = {
    "a list": (lambda c: [], "it should be an object, but is []"),
    "no tasks": (without("tasks"), 'it lacks "tasks"'),
    "empty tasks": (lambda c: c.update(tasks={}), "tasks should be of bbox, segm, got []"),
    "another task": (lambda c: c.update(tasks={"pose": c["tasks"]["bbox"]}), "tasks should be of bbox, segm, got ['pose']"),
    "a task of text": (lambda c: c.update(tasks={"bbox": "all"}), "tasks.'bbox' should be an object, but is 'all'"),
    "a metric of text": (
        lambda c: c["tasks"]["bbox"]["metrics"].update(AP="high"),
        "tasks.'bbox'.metrics.'AP' should be a finite number or null, but is 'high'",
    ),
    "a missing metric": (lambda c: c["tasks"]["bbox"]["metrics"].pop("AP50"), "bbox should have AP, AP50, "),
    "a missing category": (lambda c: c["tasks"]["bbox"]["by_category"].pop("1"), "bbox should have AP, AP50, "),
    "precision of unequal rows": (
        lambda c: c["tasks"]["bbox"].update(precision=[[[0.0], [0.0, 1.0]]]),
        "the precision of bbox should be a table for each IoU",
    ),
    "categories by name": (lambda c: c.update(categories={"mug": 1}), "categories should be a list, but is {'mug': 1}"),
    "a category without a name": (lambda c: c["categories"][1].pop("name"), 'categories[1] lacks "name"'),
    "two categories of an id": (lambda c: c["categories"][1].update(id=1), "categories should have an id each"),
    "a negative number of images": (lambda c: c.update(num_images=-1), "num_images should be a whole number of 0 or more"),
    "a number as annotation file": (
        lambda c: c.update(annotation_file=3),
        "annotation_file should be text or",
    ),
}


@pytest.mark.parametrize("name", BAD_EVALUATIONS)
def test_other_contents_are_one_sentence(compare, name):
    change, message = BAD_EVALUATIONS[name]
    content = json.loads(json.dumps(BEFORE))
    content = [] if change(content) == [] else content
    code, _, err = compare(content, AFTER)
    assert code == 1
    assert len(err.splitlines()) == 1
    assert message in err
    assert "should be a file written by an evaluation: evaluate again" in err
