"""The model card of a shared detector: what the hub shows on its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCardData

from flash_internimage.evaluation.scores import METRICS, TASK_NAMES


@dataclass(frozen=True)
class Measured:
    """Metrics of an evaluation.

    Attributes:
        dataset: name of the dataset.
        images: number of images.
        tasks: COCO's metrics in percent, by task (``bbox``, ``segm``); None where there are no such objects.
    """

    dataset: str
    images: int
    tasks: Mapping[str, Mapping[str, float | None]]


def model_card(
    name: str, title: str, classes: Sequence[str], measured: Measured | None, visualizations: Sequence[str], license: str | None
) -> str:
    """Return the text of a model card, in Markdown with the metadata that the hub reads.

    Args:
        name: ``owner/name`` of the repository, or a folder.
        title: kind of the detector, such as "Mask R-CNN".
        classes: class names.
        measured: metrics of an evaluation; None if there are none.
        visualizations: paths of images with their detections, relative to the card.
        license: identifier of the license of the weights, such as ``apache-2.0``; None: not stated.
    """
    data = ModelCardData(
        library_name="flash-internimage",
        pipeline_tag="object-detection",
        tags=["object-detection", "detectron2", "flash-internimage", "dcnv4"],
        license=license,
        model_name=name.rsplit("/", 1)[-1],
        eval_results=_results(measured) if measured is not None else None,
    )
    source = f"hf://{name}" if name.count("/") == 1 and not name.startswith((".", "/")) else name
    count = _number(len(classes), "class", "classes")
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# {name.rsplit('/', 1)[-1]}\n",
        f"{title} with a FlashInternImage backbone, trained to detect {count}.\n",
        f'```python\nfrom flash_internimage import Predictor\n\npredictor = Predictor("{source}")\n'
        'instances = predictor("image.jpg")["instances"]\n```\n',
    ]
    if measured is not None:
        sections.append(_table(measured))
    sections.append("## Classes\n\n" + ", ".join(_escaped(c) for c in classes) + "\n")
    if visualizations:
        sections.append("## Detections\n\n" + "\n\n".join(f"![Detections]({path})" for path in visualizations) + "\n")
    return "\n".join(sections)


def _results(measured: Measured) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="object-detection" if task == "bbox" else "image-segmentation",
            dataset_type=measured.dataset,
            dataset_name=measured.dataset,
            metric_type="mean_average_precision",
            metric_name=f"{TASK_NAMES[task]} AP",
            metric_value=round(float(metrics["AP"] or 0.0), 2),
        )
        for task, metrics in measured.tasks.items()
        if metrics["AP"] is not None
    ]


def _table(measured: Measured) -> str:
    lines = [
        f"## Accuracy\n\nCOCO metrics in percent, measured on {measured.dataset} "
        f"({_number(measured.images, 'image', 'images')}).\n",
        "| | " + " | ".join(METRICS) + " |",
        "| --- |" + " ---: |" * len(METRICS),
    ]
    for task, metrics in measured.tasks.items():
        cells = ["–" if (value := metrics[name]) is None else f"{value:.1f}" for name in METRICS]
        lines.append(f"| {TASK_NAMES[task]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _number(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _escaped(text: str) -> str:
    """Escape what Markdown and HTML would interpret in a class name."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()<>#|!" else c for c in text)
