"""Curves of a training, from its metrics to the report."""

import base64
import json
import re

import pytest

from flash_internimage.evaluation.report import write_report
from flash_internimage.evaluation.training_curves import TrainingCurves, find_metrics, read_training_curves

LINES = [
    {"iteration": 1, "total_loss": 3.0, "loss_box": 2.0, "lr": 0.1, "bbox/AP": 10.0, "bbox/AP50": 20.0, "segm/AP-mug": 1.0},
    {"iteration": 3, "total_loss": 2.5, "loss_box": 1.5, "rpn/num_pos_anchors": 4.0},
    {"iteration": 2, "total_loss": 2.0, "validation/total_loss": 2.2, "validation/loss_box": 1.1, "bbox/AP": float("nan")},
    {"iteration": 3, "total_loss": 1.0, "bbox/AP": 15.0},
]


@pytest.fixture
def metrics(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text(
        "\n".join([*map(json.dumps, LINES), "[]", '{"iteration": "x"}', '{"total_loss": 1}', '{"iteration": 4, "tot'])
    )
    return file


def test_losses_and_ap_by_iteration_with_the_last_values_of_repeated_iterations(metrics):
    found = read_training_curves(metrics)
    assert found.training == {"total_loss": {1: 3.0, 2: 2.0, 3: 1.0}, "loss_box": {1: 2.0, 3: 1.5}}
    assert list(found.training["total_loss"]) == [1, 2, 3]
    assert found.validation == {"total_loss": {2: 2.2}, "loss_box": {2: 1.1}}
    assert found.scores == {"bbox/AP": {1: 10.0, 3: 15.0}}


def test_metrics_are_found_in_the_first_folder_that_has_them(metrics, tmp_path):
    assert find_metrics([tmp_path / "other", tmp_path]) == metrics
    assert find_metrics([tmp_path / "other"]) is None


def svg_with(page, alt):
    """The SVG of the image with an alternative text; None if the page has no such image."""
    found = re.search(rf'<img src="data:image/svg\+xml;base64,([^"]+)" alt="{alt}"', page)
    return None if found is None else base64.b64decode(found[1]).decode()


def test_report_shows_them(evaluated, metrics, tmp_path):
    write_report(evaluated, tmp_path / "report.html", metrics=metrics)
    drawn = svg_with((tmp_path / "report.html").read_text(), "losses and AP over the iterations of the training")
    for text in ("total loss", "training", "validation", "loss_box", "box", "iteration"):
        assert f"<!-- {text} -->" in drawn
    assert "<!-- mask -->" not in drawn


@pytest.mark.parametrize("text", [None, "", "{}\n"])
def test_report_without_curves(evaluated, tmp_path, text):
    file = tmp_path / "metrics.json"
    if text is not None:
        file.write_text(text)
    write_report(evaluated, tmp_path / "report.html", metrics=None if text is None else file)
    assert "<h2>Training</h2>" not in (tmp_path / "report.html").read_text()
    assert not TrainingCurves({}, {}, {})
