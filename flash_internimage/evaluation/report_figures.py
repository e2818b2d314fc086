"""Charts of the report, as SVG images in data URLs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .scores import TASK_NAMES, Scores
from .training_curves import TrainingCurves

_MAX_CURVES = 10  # classes that can be distinguished in one chart
_MAX_LABELS = 25  # classes whose names and counts fit into the confusion matrix
_GOOD, _BAD, _NEUTRAL = "#2a7f62", "#c8553d", "#44546a"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "axes.edgecolor": "#9aa5b1",
    "axes.axisbelow": True,
    "svg.hashsalt": "report",  # makes the SVG files reproducible
}


def data_url(contents: bytes, kind: str) -> str:
    """Encode the contents of a file of MIME type ``kind`` as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(contents).decode('ascii')}"


def precision_recall(scores: Mapping[str, Scores], names: Sequence[str]) -> str:
    """Precision-recall curves, one chart per task: at IoU 0.5, 0.75 and averaged; for each class if there are few."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2 * len(scores), 4.2), layout="constrained")
        recall = np.linspace(0, 100, 101)
        for axes, (task, found) in zip(np.atleast_1d(figure.subplots(1, len(scores))), scores.items(), strict=True):
            if len(names) <= _MAX_CURVES:
                for k, name in enumerate(names):
                    color = matplotlib.colormaps["tab10"](k)
                    axes.plot(recall, found.precision[0, :, k], color=color, linewidth=1, label=f"{_plain(name)}, IoU 0.5")
            mean = _mean_of_classes(found.precision)
            axes.plot(recall, mean[0], color=_NEUTRAL, linestyle=":", linewidth=2, label="all, IoU 0.5")
            axes.plot(recall, mean[5], color=_NEUTRAL, linestyle="--", linewidth=2, label="all, IoU 0.75")
            axes.plot(recall, mean.mean(axis=0), color=_NEUTRAL, linewidth=2.5, label="all, IoU 0.5 to 0.95")
            axes.set(title=f"{TASK_NAMES[task]} AP {found.metrics['AP']:.1f}", xlabel="recall", ylabel="precision")
            _percent_axes(axes)
            axes.legend(fontsize=8, loc="lower left", framealpha=0.9)
        return _svg(figure)


def training_curves(curves: TrainingCurves) -> str:
    """Losses and AP over the iterations of the training: the total loss, its parts, and the AP of each task."""
    names = [name for name in dict.fromkeys([*curves.training, *curves.validation]) if name != "total_loss"]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(15.6, 4.2), layout="constrained")
        total, parts, scores = figure.subplots(1, 3)
        _curve(total, curves.training.get("total_loss"), color=_NEUTRAL, label="training")
        _curve(total, curves.validation.get("total_loss"), color=_NEUTRAL, linestyle="--", label="validation")
        total.set(title="total loss", xlabel="iteration")
        for k, name in enumerate(names[:_MAX_CURVES]):
            color = matplotlib.colormaps["tab10"](k)
            _curve(parts, curves.training.get(name), color=color, label=_plain(name))
            _curve(parts, curves.validation.get(name), color=color, linestyle="--")
        parts.set(title="losses, validation dashed" if curves.validation else "losses", xlabel="iteration")
        for name, fixed in zip(curves.scores, (_GOOD, _BAD, _NEUTRAL), strict=False):
            _curve(scores, curves.scores[name], color=fixed, label=TASK_NAMES.get(name.removesuffix("/AP"), name))
        scores.set(title="AP", xlabel="iteration")
        for axes in (total, parts, scores):
            axes.set_ylim(bottom=0)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8, framealpha=0.9)
        return _svg(figure)


def _curve(axes: Axes, values: Mapping[int, float] | None, **style: Any) -> None:
    """Draw a curve, if there is one; few values, such as those of evaluations, as points too."""
    if values:
        marker = "o" if len(values) <= 40 else ""
        axes.plot(list(values), list(values.values()), linewidth=1.5, marker=marker, markersize=4, **style)


def thresholds(correct: np.ndarray, score: np.ndarray, num_objects: int, chosen: float) -> str:
    """Precision and recall as functions of the score threshold.

    Args:
        correct: (N,) whether each detection is correct.
        score: (N,) score of each detection.
        num_objects: number of ground truth objects.
        chosen: score threshold of the rest of the report.
    """
    order = np.argsort(-score, kind="stable")
    hits = np.concatenate([[0], np.cumsum(correct[order])])
    lowest = np.linspace(0, 1, 401)
    number = np.searchsorted(-score[order], -lowest, side="right")  # detections at or above the threshold
    precision = np.where(number > 0, 100 * hits[number] / np.maximum(number, 1), np.nan)
    recall = 100 * hits[number] / max(num_objects, 1)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(lowest, precision, color=_GOOD, linewidth=2, label="precision: fraction of detections that are correct")
        axes.plot(lowest, recall, color=_BAD, linewidth=2, label="recall: fraction of objects that are detected")
        axes.axvline(chosen, color=_NEUTRAL, linestyle=":", label=f"{chosen:g}, used in this report")
        axes.set(xlabel="score threshold", xlim=(0, 1))
        axes.set_ylim(0, 103)
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
        axes.legend(fontsize=8, loc="lower center", framealpha=0.9)
        return _svg(figure)


def score_histogram(correct: np.ndarray, score: np.ndarray) -> str:
    """Histogram of the scores of correct and incorrect detections, on a logarithmic scale because most scores are low."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        bins = np.linspace(0, 1, 41)
        axes.hist(
            [score[correct], score[~correct]],
            bins.tolist(),
            stacked=True,
            color=[_GOOD, _BAD],
            label=["correct", "incorrect"],
            log=len(score) > 0,
        )
        axes.set(xlabel="score", ylabel="detections", xlim=(0, 1))
        axes.legend(fontsize=8)
        return _svg(figure)


def iou_histogram(best_iou: np.ndarray) -> str:
    """Histogram of the IoU of each object with the best detection of its class; objects without one are omitted.

    Args:
        best_iou: (T,) IoU for each object.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.hist(best_iou[best_iou > 0], np.linspace(0, 1, 41).tolist(), color=_NEUTRAL)
        axes.axvline(0.5, color=_BAD, linestyle=":", label="threshold for a match")
        axes.set(xlabel="IoU with the best detection of its class", ylabel="objects", xlim=(0, 1))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8)
        return _svg(figure)


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> str:
    """Confusion matrix, normalized over the objects of each class.

    Args:
        counts: (K + 1, K + 1) counts from :func:`.report_matching.confusion`.
        names: class names.
    """
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labeled = len(names) <= _MAX_LABELS
    side = 2.6 + 0.55 * len(counts) if labeled else 11
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side + 1, side), layout="compressed")
        axes = figure.subplots()
        drawn = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
        rows = [*map(_plain, names), "background"]
        columns = [*map(_plain, names), "missed"]
        size = 9 if labeled else 5
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
        axes.set_yticks(range(len(rows)), rows, fontsize=size)
        axes.set(xlabel="detected as", ylabel="ground truth")
        if labeled:
            for (i, j), count in np.ndenumerate(counts):
                if count:
                    axes.text(
                        j, i, str(count), ha="center", va="center", fontsize=8, color="white" if percent[i, j] > 55 else "black"
                    )
        bar = figure.colorbar(drawn, ax=axes, fraction=0.04, format=PercentFormatter(decimals=0))
        bar.set_label("fraction of the row")
        return _svg(figure)


def _mean_of_classes(precision: np.ndarray) -> np.ndarray:
    """Return the (10, 101) mean over the classes with ground truth; NaN if there are none."""
    present = ~np.isnan(precision).all(axis=(0, 1))
    return precision[:, :, present].mean(axis=2) if present.any() else np.full(precision.shape[:2], np.nan)


def _percent_axes(axes: Axes) -> None:
    axes.set(xlim=(0, 100), ylim=(0, 103))
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))


def _plain(name: str) -> str:
    """Escape a name for matplotlib: a dollar sign starts a formula, a leading underscore hides it from the legend."""
    return name.replace("$", r"\$").lstrip("_") or "_"


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_url(buffer.getvalue(), "image/svg+xml")
