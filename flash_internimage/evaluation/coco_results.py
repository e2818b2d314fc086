"""Detections in COCO's result format."""

from __future__ import annotations

from typing import Any

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from flash_internimage.structures import WindowMasks


def coco_results(instances: Instances, image_id: Any) -> list[dict[str, Any]]:
    """Return detections, on the CPU, in COCO's result format, as detectron2 does.

    Masks in windows are encoded without bitmaps of the whole image.
    """
    masks = instances.pred_masks if instances.has("pred_masks") else None
    if not isinstance(masks, WindowMasks):
        return list(instances_to_coco_json(instances, image_id))
    others = {name: value for name, value in instances.get_fields().items() if name != "pred_masks"}
    results = instances_to_coco_json(Instances(instances.image_size, **others), image_id)
    return [{**result, "segmentation": rle} for result, rle in zip(results, masks.run_lengths(), strict=True)]
