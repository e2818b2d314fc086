"""Collection of detections in COCO's annotation format, with scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances


def category_ids(names: Sequence[str]) -> list[int]:
    """Return the category id of each class: COCO's ids for COCO's classes, otherwise 1, 2, ….

    Args:
        names: class names in the model's order.
    """
    coco = MetadataCatalog.get("coco_2017_val")
    if list(names) == list(coco.thing_classes):
        return sorted(coco.thing_dataset_id_to_contiguous_id)
    return list(range(1, len(names) + 1))


class Detections:
    """Collects the detections of images and video frames.

    Args:
        names: class names in the model's order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._ids = category_ids(names)
        self._categories = [{"id": id_, "name": name} for id_, name in zip(self._ids, names, strict=True)]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    @property
    def number_of_objects(self) -> int:
        """Number of objects collected so far."""
        return len(self._annotations)

    def add(self, file_name: str, instances: Instances, drawn: str, frame: int | None = None) -> None:
        """Add the detections of an image or a video frame.

        Args:
            file_name: file of the image or video.
            instances: detections in it.
            drawn: file name of the visualization.
            frame: index of the frame in the video, from 0; None for an image.
        """
        image_id = len(self._images) + 1
        height, width = instances.image_size
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width, "drawn": drawn}
        self._images.append(image if frame is None else {**image, "frame": frame})
        for found in instances_to_coco_json(instances, image_id):
            mask = found.get("segmentation")
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    **found,
                    "category_id": self._ids[found["category_id"]],
                    "area": found["bbox"][2] * found["bbox"][3] if mask is None else float(mask_util.area(mask)),
                    "iscrowd": 0,
                }
            )

    def as_coco(self) -> dict[str, list[dict[str, Any]]]:
        """Return ``images``, ``annotations`` (boxes XYWH in pixels, masks as RLE, scores) and ``categories``."""
        return {"images": self._images, "annotations": self._annotations, "categories": self._categories}
