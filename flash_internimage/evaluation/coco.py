"""COCO's average precision, reported as detectron2 reports it.

detectron2 has a fast path of its own, but in its compiled part, which a pure-Python installation does not have.
"""

import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import detectron2.utils.comm as comm
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from flash_internimage.data.categories import Categories
from flash_internimage.errors import UserError

from .average_precision import average_precision
from .record import EVALUATION_FILE, PREDICTIONS_FILE, evaluation_record, write_json
from .scores import Scores

logger = logging.getLogger(__name__)


def _category_table(by_name: Mapping[str, float]) -> str:
    columns = min(6, 2 * len(by_name))
    flat = list(itertools.chain(*by_name.items()))
    rows = itertools.zip_longest(*[flat[i::columns] for i in range(columns)])
    headers = ["category", "AP"] * (columns // 2)
    return tabulate(rows, tablefmt="pipe", floatfmt=".3f", headers=headers, numalign="left")


class FastCOCOEvaluator(COCOEvaluator):
    """detectron2's COCO evaluator with a fast computation of AP that needs nothing compiled in detectron2.

    Masks are kept run-length encoded, never as pixels. Without any prediction AP is 0.

    Args:
        dataset_name: a registered dataset.
        tasks: of ``"bbox"`` and ``"segm"``; by default ``"bbox"``, and ``"segm"`` if there are masks.
        distributed: whether to gather the predictions of all processes.
        output_dir: folder for ``coco_instances_results.json``, the predictions in COCO's result format, and
            ``evaluation.json``, the figures (:mod:`.record`).
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
    ) -> None:
        if MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id") is None:
            DatasetCatalog.get(dataset_name)  # the names and ids of classes are known once a dataset was loaded
        if output_dir is not None and comm.is_main_process():
            os.makedirs(output_dir, exist_ok=True)  # now, so that it does not fail when hours were spent on predictions
        super().__init__(
            dataset_name,
            tasks=None if tasks is None else tuple(tasks),
            distributed=distributed,
            output_dir=output_dir,
            use_fast_impl=False,
        )
        self.reset()

    @property
    def output_dir(self) -> str | None:
        """Where predictions and figures are written."""
        return self._output_dir

    @property
    def categories(self) -> Categories | None:
        """The categories of the dataset; None if it does not name them."""
        return Categories.from_metadata(self._metadata)

    def annotations_of(self, image_id: int) -> list[dict]:
        """The ground truth of an image, in COCO's format."""
        return self._coco_api.imgToAnns.get(image_id, [])

    def evaluate(self, img_ids: Sequence[int] | None = None) -> OrderedDict[str, dict[str, float]]:
        """AP of the predictions seen since ``reset``.

        Args:
            img_ids: images to count; by default all of the dataset.

        Returns:
            ``{"bbox": {"AP": ..., "AP50": ..., ..., "AP-<class>": ...}, "segm": ...}`` in percent in the main process,
            empty in the others and for data without annotations.
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
        if not self._do_evaluation:
            logger.info("The dataset has no annotations, so there is no AP")
            return OrderedDict()
        dataset = self._restricted(img_ids)
        if img_ids is not None:
            kept = {image["id"] for image in dataset["images"]}
            results = [r for r in results if r["image_id"] in kept]
        scores = average_precision(dataset, results, self._tasks_of(results))
        if self._output_dir:
            record = evaluation_record(self._metadata, dataset, scores)
            write_json(Path(self._output_dir) / EVALUATION_FILE, record)
        return OrderedDict((task, self._reported(dataset, found, task)) for task, found in scores.items())

    def _restricted(self, img_ids: Sequence[int] | None) -> dict:
        """The annotation file's content, for some images only if asked."""
        dataset = self._coco_api.dataset
        if img_ids is None:
            return dataset
        kept = set(img_ids)
        return {
            **dataset,
            "images": [image for image in dataset["images"] if image["id"] in kept],
            "annotations": [a for a in dataset["annotations"] if a["image_id"] in kept],
        }

    def _tasks_of(self, results: Sequence[dict]) -> list[str]:
        tasks = list(self._tasks or ["bbox", *(["segm"] if any("segmentation" in r for r in results) else [])])
        if "segm" in tasks and not all(a.get("segmentation") for a in self._coco_api.dataset["annotations"]):
            logger.warning("Annotations lack masks, so the AP of masks is not computed")
            tasks.remove("segm")
        return tasks

    def _to_dataset_ids(self, results: list[dict]) -> list[dict]:
        """Results with the category ids of the annotation file instead of the model's classes.

        Raises:
            UserError: the model has predicted a class that the dataset does not have.
        """
        if self.categories is None:
            return results
        ids = self.categories.ids
        unknown = {r["category_id"] for r in results} - set(range(len(ids)))
        if unknown:
            raise UserError(
                f"the model predicts class {min(unknown)}, but dataset {self._metadata.name} has {len(ids)} classes; "
                "evaluate on data with the classes that the model was trained for"
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
