"""Validation split that is held out of the training data at random, and recorded."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Collection
from pathlib import Path

from flash_internimage.errors import UserError
from flash_internimage.files import write_atomically

from .contents import Contents

logger = logging.getLogger(__name__)

SPLIT_FILE = "split.json"
"""Name of the file with the images of the validation split."""


def draw_validation(file_names: Collection[str], fraction: float, seed: int) -> list[str]:
    """Choose images for validation at random: at least one, but not all.

    Args:
        file_names: file names of all images; their order does not matter.
        fraction: fraction of the images to choose, between 0 and 1.
        seed: seed of the random choice.

    Raises:
        UserError: the fraction is not between 0 and 1, or there are fewer than two images.
    """
    if not (isinstance(fraction, int | float) and 0 < fraction < 1):
        raise UserError(f"data.val_fraction: expected a number between 0 and 1, got {fraction!r}; 0.1 holds out a tenth")
    names = sorted(set(file_names))
    if len(names) < 2:
        raise UserError(f"data.val_fraction: expected at least 2 images to split, got {len(names)}; add images")
    number = min(max(round(fraction * len(names)), 1), len(names) - 1)
    return sorted(random.Random(seed).sample(names, number))


def recorded_validation(file: Path, fraction: float, seed: int) -> list[str] | None:
    """Return the images for validation that a file records; None if it does not exist or has another fraction or seed.

    Raises:
        UserError: the file has other content.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        drawn = record["val_fraction"], record["val_seed"]
        names = [str(name) for name in record["val"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: expected the record of a validation split, with val, val_fraction and val_seed, got a damaged file "
            f"({error}); delete it to draw the split again"
        ) from error
    return names if drawn == (fraction, seed) else None


def record_validation(file: Path, names: list[str], fraction: float, seed: int) -> None:
    """Write the images for validation to a file, with the fraction and the seed."""
    record = {"val_fraction": fraction, "val_seed": seed, "val": names}
    write_atomically(file, lambda path: path.write_text(json.dumps(record, indent=1), encoding="utf-8"))


def hold_out(contents: Contents, validation: Collection[str]) -> tuple[Contents, Contents]:
    """Split a dataset in COCO format into training and validation data; both keep all categories and all ids.

    Args:
        contents: a valid dataset.
        validation: file names of the images for validation; all other images are for training.
    """
    chosen = set(validation)
    content = contents.content
    is_chosen = {image["id"]: image["file_name"] in chosen for image in content["images"]}
    parts = [
        {
            **content,
            "images": [image for image in content["images"] if is_chosen[image["id"]] == of_validation],
            "annotations": [a for a in content.get("annotations", []) if is_chosen.get(a["image_id"]) == of_validation],
        }
        for of_validation in (False, True)
    ]
    return Contents(parts[0], contents.image_root), Contents(parts[1], contents.image_root)
