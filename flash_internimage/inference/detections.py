"""Collection of detections in COCO's annotation format, with scores."""

from __future__ import annotations

from typing import Any

import pycocotools.mask as mask_util
from detectron2.structures import Instances

from flash_internimage.data import Categories
from flash_internimage.evaluation.coco_results import coco_results

from .tracking import UNTRACKED


class Detections:
    """Collects the detections of images and video frames.

    Args:
        categories: in the order of the model's classes.
    """

    def __init__(self, categories: Categories) -> None:
        self._ids = categories.ids
        self._categories = [{"id": id_, "name": name} for id_, name in categories.items()]
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
            instances: detections in it, optionally with ``track_ids``.
            drawn: file name of the visualization.
            frame: index of the frame in the video, from 0; None for an image.
        """
        image_id = len(self._images) + 1
        height, width = instances.image_size
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width, "drawn": drawn}
        self._images.append(image if frame is None else {**image, "frame": frame})
        tracks = instances.track_ids.tolist() if instances.has("track_ids") else [UNTRACKED] * len(instances)
        for found, track in zip(coco_results(instances, image_id), tracks, strict=True):
            mask = found.get("segmentation")
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    **found,
                    "category_id": self._ids[found["category_id"]],
                    "area": found["bbox"][2] * found["bbox"][3] if mask is None else float(mask_util.area(mask)),
                    "iscrowd": 0,
                    **({} if track == UNTRACKED else {"track_id": track}),
                }
            )

    def as_coco(self) -> dict[str, list[dict[str, Any]]]:
        """Return ``images``, ``annotations`` (boxes XYWH in pixels, masks as RLE, scores) and ``categories``."""
        return {"images": self._images, "annotations": self._annotations, "categories": self._categories}
