"""Random annotations and predictions of ellipses, covering all cases that COCO's evaluation distinguishes."""

import numpy as np
import pycocotools.mask as mask_util

CATEGORIES = [{"id": 42, "name": "mug"}, {"id": 7, "name": "spoon"}, {"id": 9, "name": "fork"}]
SIDE = 150  # of each image, in pixels
_CORNERS = np.stack([np.cos(np.arange(20) * np.pi / 10), np.sin(np.arange(20) * np.pi / 10)], axis=1)


def ellipse(random: np.random.RandomState) -> tuple[np.ndarray, dict]:
    """Return polygons and RLE of an ellipse of random position and size (small to large), sometimes in two parts."""
    center, radii = random.uniform(20, SIDE - 20, 2), np.exp(random.uniform(np.log(4), np.log(75), 2))
    parts = [center + radii * _CORNERS]
    if random.rand() < 0.2:
        parts.append(parts[0] * 0.5)
    polygons = [part.clip(0, SIDE).round(2).reshape(-1).tolist() for part in parts]
    return polygons, mask_util.merge(mask_util.frPyObjects(polygons, SIDE, SIDE))


def as_text(rle: dict) -> dict:
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def ground_truth(random: np.random.RandomState, images: int, crowds: float = 0.15) -> dict:
    """Generate the content of an annotation file with objects of all sizes, crowd regions and images without objects.

    Masks are polygons or RLE, some areas are exactly on the boundary between two sizes, there is no object of the class fork,
    and image ids are unordered and have gaps.

    Args:
        random: random number generator.
        images: number of images.
        crowds: fraction of crowd regions.
    """
    annotations = []
    image_ids = [int(i) for i in random.permutation(10 * images)[:images]]
    for image_id in image_ids:
        for _ in range(random.randint(0, 7)):
            polygons, rle = ellipse(random)
            area = float(mask_util.area(rle)) if random.rand() < 0.8 else float(random.choice([32**2, 96**2, 0]))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(random.choice([42, 7])),
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "area": area,
                    "iscrowd": int(random.rand() < crowds),
                    "segmentation": polygons if random.rand() < 0.5 else as_text(rle),
                }
            )
    images = [{"id": i, "file_name": f"{i}.jpg", "height": SIDE, "width": SIDE} for i in image_ids]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def mask_of(annotation: dict) -> np.ndarray:
    """Return the (SIDE, SIDE) mask of an annotation of ``ground_truth``."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, SIDE, SIDE))
    return mask_util.decode(segmentation)


def predictions(random: np.random.RandomState, dataset: dict, digits: int = 2) -> list[dict]:
    """Generate predictions: displaced, duplicate, misclassified and spurious objects, some with boxes that do not fit the mask.

    Args:
        random: random number generator.
        dataset: content of the annotation file.
        digits: decimal digits of the scores; few digits give many ties.
    """
    results = []
    for image in dataset["images"]:
        objects = [a for a in dataset["annotations"] if a["image_id"] == image["id"]]
        for _ in range(random.randint(0, 12)):
            if objects and random.rand() < 0.8:
                found = objects[random.randint(len(objects))]
                shift = random.randint(-4, 5, 2) if random.rand() < 0.7 else (0, 0)
                mask = np.roll(mask_of(found), shift, axis=(0, 1))
                category = found["category_id"] if random.rand() < 0.8 else 9
                rle = mask_util.encode(np.asfortranarray(mask))
            else:
                rle, category = ellipse(random)[1], int(random.choice([42, 7, 9]))
            error = random.uniform(-1, 1, 4) if random.rand() < 0.8 else random.uniform(0, 50, 4)
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": (mask_util.toBbox(rle) + error).tolist(),
                    "score": float(np.round(random.rand(), digits)),
                    "segmentation": as_text(rle),
                }
            )
    random.shuffle(results)
    return results


def perfect(dataset: dict) -> list[dict]:
    """Return perfect predictions for ``ground_truth``."""
    keys = ("image_id", "category_id", "bbox")
    return [
        {
            **{key: a[key] for key in keys},
            "segmentation": as_text(mask_util.encode(np.asfortranarray(mask_of(a)))),
            "score": 0.9,
        }
        for a in dataset["annotations"]
        if not a["iscrowd"]
    ]
