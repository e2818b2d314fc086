"""The report of an evaluation: a self-contained page, generated from the saved files."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from flash_internimage.errors import UserError
from flash_internimage.evaluation.report import load, write_report
from flash_internimage.evaluation.report_images import Mistakes, count_mistakes, worst
from flash_internimage.evaluation.report_matching import match
from flash_internimage.evaluation.saved import read_evaluation


class Page(HTMLParser):
    """Parser for the elements, attributes and text of a page; asserts that elements are closed in order."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open and self.open[-1] not in ("style", "script") else ""


@pytest.fixture(scope="module")
def report(evaluated, tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "report.html"
    write_report(evaluated, target, config="model: <Tiny>\n", environment="torch  2", min_score=0.5, num_images=2)
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
    return target.read_text()


def test_report_is_self_contained(report):
    page = Page(report)
    addresses = [attrs[name] for _, attrs in page.elements for name in ("src", "href") if name in attrs]
    assert addresses
    assert all(address.startswith(("data:image/svg+xml;base64,", "data:image/jpeg;base64,")) for address in addresses)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", report)
    assert {tag for tag, _ in page.elements} >= {"table", "img", "figure", "script"}
    assert all(attrs.get("alt") for tag, attrs in page.elements if tag == "img")


def test_report_contains_the_metrics(report, evaluated):
    saved, _ = read_evaluation(evaluated)
    text = " ".join(Page(report).text.split())
    assert "Evaluation on shapes <&>" in text
    assert "model: <Tiny>" in text
    assert "torch 2" in text
    for task in ("bbox", "segm"):
        assert f"{saved['tasks'][task]['metrics']['AP']:.1f}" in text
    objects = sum(category["objects"] for category in saved["categories"])
    assert f"8 images, {objects} objects of 4 classes" in text
    assert re.search(rf"\nall\n?{objects}|all{objects}", Page(report).text)
    for category in saved["categories"]:
        assert f"{category['name']}{category['objects']}" in Page(report).text


def test_report_states_the_limit_of_detections(evaluated, tmp_path):
    folder = tmp_path / "inference"
    shutil.copytree(evaluated / "inference", folder)
    content = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({**content, "max_dets_per_image": 1500}))
    write_report(tmp_path, tmp_path / "report.html", num_images=0)
    assert "AP uses up to 1,500 detections per class and image." in (tmp_path / "report.html").read_text()


def test_report_contains_the_charts(report):
    charts = [base64.b64decode(url).decode() for url in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", report)]
    assert len(charts) == 5
    assert all("<svg" in chart for chart in charts)
    labels = ["precision", "score threshold", "score", "IoU with the best detection", "detected as"]
    for chart, label in zip(charts, labels, strict=True):
        assert f"<!-- {label}" in chart  # matplotlib adds the text that it draws as curves in comments


def test_report_shows_the_images_with_the_most_mistakes(evaluated, report):
    data = load(evaluated)
    matches = match(data.detections, data.objects, len(data.files), 0.5)
    mistakes = count_mistakes(data.detections, data.objects, matches, len(data.files))
    assert sum(m.missed for m in mistakes) == (~matches.detected & ~data.objects.crowd).sum() > 0
    assert sum(m.incorrect for m in mistakes) > 0
    by_missed, by_incorrect = worst(mistakes, 2)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", report)
    assert [caption.split(":")[0] for caption in captions] == [data.files[m.image].name for m in by_missed + by_incorrect]
    assert f"{by_missed[0].missed} of " in captions[0]
    assert report.count("data:image/jpeg") == len(captions)


def test_worst_images():
    mistakes = [Mistakes(0, 1, 5), Mistakes(1, 3, 0), Mistakes(2, 0, 2), Mistakes(3, 3, 1), Mistakes(4, 0, 0)]
    by_missed, by_incorrect = worst(mistakes, 2)
    assert [m.image for m in by_missed] == [3, 1]
    assert [m.image for m in by_incorrect] == [0, 2]
    assert worst(mistakes, 0) == ([], [])


def test_report_without_images_or_detections(evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "run")
    folder = tmp_path / "run" / "inference"
    saved = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({**saved, "image_root": "/nowhere"}))
    (folder / "coco_instances_results.json").write_text("[]")
    write_report(folder, tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text()).text
    assert "the image cannot be shown" in text
    assert "No object was detected as another class." in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"annotation_file": "/nowhere.json"}, r"/nowhere.json: should contain the annotations", id="no annotations"
        ),
        pytest.param({"annotation_file": None}, "has no annotation file", id="no annotation file"),
    ],
)
def test_missing_file_is_an_error_and_no_report_is_written(evaluated, tmp_path, change, message):
    shutil.copytree(evaluated / "inference", tmp_path / "run")
    saved = json.loads((tmp_path / "run/evaluation.json").read_text())
    (tmp_path / "run/evaluation.json").write_text(json.dumps({**saved, **change}))
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "run", tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_mean_of_the_curves_is_ap(evaluated):
    scores = load(evaluated).scores["bbox"]
    np.testing.assert_allclose(np.nanmean(scores.precision), scores.metrics["AP"], atol=0.01)


BAD_FILES = {
    "annotations without images": ("truth", lambda t: t.pop("images"), 'it lacks "images"'),
    "an image id that is a list": (
        "truth",
        lambda t: t["images"][0].update(id=[1]),
        r"images\[0\].id should be a whole number or text",
    ),
    "annotations that are text": (
        "truth",
        lambda t: t.update(annotations="none"),
        "annotations should be a list, but is 'none'",
    ),
    "a box of nulls": (
        "truth",
        lambda t: t["annotations"][1].update(bbox=[None] * 4),
        r"annotations\[1\].bbox should be four numbers",
    ),
    "a file above the folder": (
        "truth",
        lambda t: t["images"][0].update(file_name="a/../../b.png"),
        "outside of the image folder",
    ),
    "an absolute path": (
        "truth",
        lambda t: t["images"][0].update(file_name="/etc/b.png"),
        "'/etc/b.png' is outside of the image",
    ),
    "a prediction of a string": ("predictions", lambda p: p.append("x"), "should be an object, but is 'x'"),
    "a score of null": (
        "predictions",
        lambda p: p[0].update(score=None),
        r"\[0\].score should be a finite number, but is None",
    ),
    "precision of another size": (
        "evaluation",
        lambda e: e["tasks"]["bbox"].update(precision=[[[0.5]]]),
        r"the precision of bbox should have shape \(10, 101, 4\), got \(1, 1, 1\)",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_wrong_types_are_one_sentence(evaluated, tmp_path, name):
    kind, change, message = BAD_FILES[name]
    folder = tmp_path / "run"
    shutil.copytree(evaluated / "inference", folder)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    contents = {"evaluation": evaluation}
    contents["truth"] = json.loads(Path(evaluation["annotation_file"]).read_text())
    contents["predictions"] = json.loads((folder / "coco_instances_results.json").read_text())
    change(contents[kind])
    evaluation["annotation_file"] = str(tmp_path / "truth.json")
    for file, key in (("evaluation", "evaluation"), ("coco_instances_results", "predictions"), ("../truth", "truth")):
        (folder / f"{file}.json").write_text(json.dumps(contents[key]))
    with pytest.raises(UserError, match=message):
        write_report(folder, tmp_path / "report.html")
