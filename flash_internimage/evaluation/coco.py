"""COCO evaluator with detectron2's interface and a fast computation of average precision.

detectron2's own fast implementation is part of its compiled extension, which a pure-Python installation lacks.
"""

import itertools
import logging
import os
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import detectron2.utils.comm as comm
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from flash_internimage.coco_format import contents_of, is_registered_in_code
from flash_internimage.data.categories import Categories
from flash_internimage.errors import UserError
from flash_internimage.path_manager import PathManager
from flash_internimage.plurals import agree, counted

from .average_precision import MAX_DETECTIONS, average_precision
from .coco_results import coco_results
from .saved import EVALUATION_FILE, GROUND_TRUTH_FILE, PREDICTIONS_FILE, evaluation_to_json, read_json, write_json
from .scores import Scores

logger = logging.getLogger(__name__)


def _category_table(by_name: Mapping[str, float]) -> str:
    columns = min(6, 2 * len(by_name))
    flat = list(itertools.chain(*by_name.items()))
    rows = itertools.zip_longest(*[flat[i::columns] for i in range(columns)])
    headers = ["category", "AP"] * (columns // 2)
    return tabulate(rows, tablefmt="pipe", floatfmt=".3f", headers=headers, numalign="left")


class FastCOCOEvaluator(DatasetEvaluator):
    """COCO evaluator like detectron2's, with a fast computation of AP that does not need detectron2's compiled extension.

    Masks are stored as RLE. Without predictions AP is 0. Datasets that are registered in code, without an annotation file, are
    evaluated like any other.

    Args:
        dataset_name: a registered dataset.
        tasks: ``"bbox"``, ``"segm"``, or both; by default ``"bbox"``, and ``"segm"`` if the predictions have masks.
        distributed: whether to gather the predictions of all processes.
        output_dir: folder for ``coco_instances_results.json`` (predictions in COCO's result format) and ``evaluation.json``
            (metrics, see :mod:`.saved`). The ground truth of a dataset without an annotation file is written, too.
        max_dets_per_image: limit of detections per category and image; COCO's is 100. The model has its own limit.

    Attributes:
        weights_sha256: fingerprint of the evaluated weights, to be written with the metrics; None if unavailable.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        max_dets_per_image: int = MAX_DETECTIONS,
    ) -> None:
        if max_dets_per_image < 1:
            raise UserError(f"FastCOCOEvaluator: max_dets_per_image should be 1 or more, got {max_dets_per_image}")
        if output_dir is not None and comm.is_main_process():
            os.makedirs(output_dir, exist_ok=True)  # fail now rather than after hours of inference
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets_per_image = max_dets_per_image
        self.weights_sha256: str | None = None
        self._metadata = MetadataCatalog.get(dataset_name)
        self._registered_in_code = is_registered_in_code(dataset_name)
        if self._registered_in_code:
            self._dataset = contents_of(dataset_name)
        else:
            if self._metadata.get("thing_dataset_id_to_contiguous_id") is None:
                DatasetCatalog.get(dataset_name)  # loading a dataset sets the names and ids of its classes
            path = PathManager.get_local_path(self._metadata.json_file)
            self._dataset = read_json(Path(path), f"the annotations of dataset {dataset_name}")
        self._annotations_by_image: dict[Any, list[dict]] = defaultdict(list)
        for annotation in self._dataset.get("annotations") or []:
            self._annotations_by_image[annotation["image_id"]].append(annotation)
        self.reset()

    @property
    def output_dir(self) -> str | None:
        """Folder for predictions and metrics; None: they are not written."""
        return self._output_dir

    @property
    def categories(self) -> Categories | None:
        """Categories of the dataset; None if it does not name them."""
        if self._registered_in_code:
            return Categories.from_coco(self._dataset["categories"])
        return Categories.from_metadata(self._metadata)

    def annotations_of(self, image_id: int) -> list[dict]:
        """Return the ground truth annotations of an image, in COCO format."""
        return self._annotations_by_image.get(image_id, [])

    def reset(self) -> None:
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        for given, found in zip(inputs, outputs, strict=True):
            instances = coco_results(found["instances"].to("cpu"), given["image_id"])
            self._predictions.append({"image_id": given["image_id"], "instances": instances})

    def evaluate(self, img_ids: Sequence[int] | None = None) -> OrderedDict[str, dict[str, float]]:
        """Compute the AP of the predictions processed since ``reset``.

        Args:
            img_ids: images to evaluate; by default all images of the dataset.

        Returns:
            ``{"bbox": {"AP": ..., "AP50": ..., ..., "AP-<class>": ...}, "segm": ...}`` in percent on the main process;
            empty on the others, and for a dataset without annotations.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return OrderedDict()
        results = self._to_dataset_ids(list(itertools.chain(*(p["instances"] for p in predictions))))
        if self._output_dir:
            write_json(Path(self._output_dir) / PREDICTIONS_FILE, results)
        if not self._dataset.get("annotations"):
            where = f"in {Path(self._output_dir) / PREDICTIONS_FILE}" if self._output_dir else "not saved"
            logger.info(
                "Dataset %s has no annotations: its %s %s, and %s not compared with anything",
                self._metadata.name,
                counted(results, "detection is", "detections are"),
                where,
                agree("[is|are]", results),
            )
            return OrderedDict()
        dataset = self._restricted(img_ids)
        self._warn_of_limit(dataset["annotations"])
        if img_ids is not None:
            kept = {image["id"] for image in dataset["images"]}
            results = [r for r in results if r["image_id"] in kept]
        scores = average_precision(dataset, results, self._tasks_of(results), self._max_dets_per_image)
        if self._output_dir:
            annotation_file = self._metadata.get("json_file")
            if self._registered_in_code:
                annotation_file = os.path.join(self._output_dir, GROUND_TRUTH_FILE)
                write_json(Path(annotation_file), self._dataset)
            saved = evaluation_to_json(
                self._metadata, dataset, scores, annotation_file, self._max_dets_per_image, self.weights_sha256
            )
            write_json(Path(self._output_dir) / EVALUATION_FILE, saved)
        return OrderedDict((task, self._reported(dataset, found, task)) for task, found in scores.items())

    def _restricted(self, img_ids: Sequence[int] | None) -> dict:
        """Return the content of the annotation file, restricted to ``img_ids`` unless they are None."""
        dataset = self._dataset
        if img_ids is None:
            return dataset
        kept = set(img_ids)
        return {
            **dataset,
            "images": [image for image in dataset["images"] if image["id"] in kept],
            "annotations": [a for a in dataset["annotations"] if a["image_id"] in kept],
        }

    def _warn_of_limit(self, annotations: Sequence[Mapping]) -> None:
        """Log a warning if an image has more objects of a category than detections are evaluated."""
        counts = Counter((a["image_id"], a["category_id"]) for a in annotations if not a.get("iscrowd"))
        ((image_id, category_id), count) = max(counts.items(), key=lambda item: item[1], default=((None, None), 0))
        if count > self._max_dets_per_image:
            logger.warning(
                "Image %r has %s of category %r, but only %s evaluated for each category and image; raise "
                "dataloader.evaluator.max_dets_per_image, and the limit of the model",
                image_id,
                counted(count, "object"),
                category_id,
                counted(self._max_dets_per_image, "detection is", "detections are"),
            )

    def _tasks_of(self, results: Sequence[dict]) -> list[str]:
        tasks = list(self._tasks or ["bbox", *(["segm"] if any("segmentation" in r for r in results) else [])])
        if "segm" in tasks and not all(a.get("segmentation") for a in self._dataset["annotations"]):
            logger.warning("Annotations have no masks, so mask AP is not computed")
            tasks.remove("segm")
        return tasks

    def _to_dataset_ids(self, results: list[dict]) -> list[dict]:
        """Replace the model's class indices in results by the category ids of the annotation file.

        Raises:
            UserError: the model has predicted a class that the dataset does not have.
        """
        if self.categories is None:
            return results
        ids = self.categories.ids
        unknown = {r["category_id"] for r in results} - set(range(len(ids)))
        if unknown:
            raise UserError(
                f"the model predicts class {min(unknown)}, but dataset {self._metadata.name} has "
                f"{counted(ids, 'class', 'classes')}; evaluate on data with the classes that the model was trained for"
            )
        return [{**r, "category_id": ids[r["category_id"]]} for r in results]

    def _reported(self, dataset: Mapping, scores: Scores, task: str) -> dict[str, float]:
        logger.info("Evaluation results for %s:\n%s", task, create_small_table(scores.metrics))
        if not np.isfinite(list(scores.metrics.values())).all():
            logger.info("NaN: there are no objects of that size")
        if len(scores.by_category) == 1:
            return scores.metrics
        names = Categories.from_coco(dataset["categories"])
        by_name = {names[id_]: found["AP"] for id_, found in scores.by_category.items()}
        logger.info("%s AP of each category:\n%s", task, _category_table(by_name))
        return {**scores.metrics, **{f"AP-{name}": ap for name, ap in by_name.items()}}
