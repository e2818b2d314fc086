"""The built-in "shapes" dataset: small synthetic images in COCO format, for demos, tests and training on a CPU.

It is generated on first use in ``$DETECTRON2_DATASETS/shapes`` (default ``./datasets/shapes``) as JPEG files and COCO
annotation files, and then loaded by detectron2's COCO loader like any other dataset::

    shapes/train/000000000001.jpg ...       shapes/annotations/instances_train.json
    shapes/val/000000100001.jpg ...         shapes/annotations/instances_val.json
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

from flash_internimage.errors import UserError
from flash_internimage.files import full_disk_reported
from flash_internimage.locks import FileLock
from flash_internimage.plurals import counted

from .shapes_drawing import CATEGORIES, AnnotatedImage, draw_image

logger = logging.getLogger(__name__)

SIZES = {"train": 400, "val": 100}
"""Number of images of each split."""

_FIRST_NUMBER = {"train": 1, "val": 100_001}
_VERSION = "1"  # incremented whenever an image or an annotation changes
_JPEG_QUALITY = 92


def annotation_file(root: str | Path, split: str) -> Path:
    """Return the path of a split's annotation file."""
    return Path(root) / "annotations" / f"instances_{split}.json"


def write_split(root: str | Path, split: str, size: int, draw: Callable[[int], AnnotatedImage] = draw_image) -> None:
    """Generate one split: its images and its annotation file.

    Args:
        root: folder of the dataset; the folders of the split are created in it.
        split: ``"train"`` or ``"val"``.
        size: number of images.
        draw: generates the image of a number.
    """
    folder = Path(root) / split
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(_FIRST_NUMBER[split], _FIRST_NUMBER[split] + size):
        drawn = draw(image_id)
        file_name = f"{image_id:012d}.jpg"
        Image.fromarray(drawn.image).save(folder / file_name, quality=_JPEG_QUALITY, subsampling=0)
        height, width = drawn.image.shape[:2]
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        annotations.extend(
            {
                "image_id": image_id,
                "category_id": annotation.category_id,
                "segmentation": annotation.segmentation,
                "bbox": annotation.box,
                "area": annotation.area,
                "iscrowd": int(annotation.is_crowd),
            }
            for annotation in drawn.annotations
        )
    for annotation_id, annotation in enumerate(annotations, start=1):
        annotation["id"] = annotation_id
    content = {
        "info": {"description": "shapes", "version": _VERSION},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": id_, "name": name, "supercategory": "shape"} for id_, name in CATEGORIES.items()],
    }
    target = annotation_file(root, split)
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(content), encoding="utf-8")


def make_shapes(root: str | Path, sizes: Mapping[str, int] = SIZES) -> None:
    """Generate the dataset unless it already exists.

    It is generated in a temporary folder that is then renamed, so that neither a killed process nor concurrent processes
    leave an incomplete dataset. Other processes wait meanwhile.

    Args:
        root: folder of the dataset.
        sizes: number of images of each split.

    Raises:
        UserError: the folder contains other files, or another version of the dataset, or the disk is full.
    """
    root = Path(root)
    if _is_complete(root, sizes):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.parent / f".{root.name}.lock", purpose=f"generates {root}") as lock:
        if lock.held:  # the lock excludes other writers, so any temporary folders are those of killed processes
            for left in root.parent.glob(f".{root.name}-*"):
                shutil.rmtree(left, ignore_errors=True)
        if not _is_complete(root, sizes):
            _generate(root, sizes)


def _generate(root: Path, sizes: Mapping[str, int]) -> None:
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        draft.chmod(0o755)  # mkdtemp makes a folder that only its owner can read
        logger.info("Generating %s in %s", counted(sum(sizes.values()), "image"), root)
        with full_disk_reported(root, lambda: draft):
            for split, size in sizes.items():
                write_split(draft, split, size)
            os.rename(draft, root)
    except OSError:
        # Renaming onto a folder that is not empty fails: another process may have finished first.
        if not _is_complete(root, sizes):
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _is_complete(root: Path, sizes: Mapping[str, int]) -> bool:
    """Return whether the dataset exists; raise an error for other content, which is never overwritten."""
    if not root.is_dir() or not any(root.iterdir()):
        return False
    for split in sizes:
        try:
            version = json.loads(annotation_file(root, split).read_text(encoding="utf-8"))["info"]["version"]
        except (OSError, ValueError, LookupError, TypeError):
            version = None
        if version != _VERSION:
            raise UserError(
                f"shapes: {root} should contain version {_VERSION} of the dataset, but {annotation_file(root, split)} is "
                f"{'missing or corrupt' if version is None else f'version {version!r}'}; "
                "delete the folder, or set DETECTRON2_DATASETS to another folder, to generate the dataset again"
            )
    return True


def load_shapes(root: str | Path, split: str, dataset_name: str) -> list[dict]:
    """Load the dataset dicts of a split, generating the dataset first if it does not exist."""
    make_shapes(root)
    return load_coco_json(str(annotation_file(root, split)), str(Path(root) / split), dataset_name)


def register_shapes(root: str | Path | None = None, prefix: str = "shapes") -> None:
    """Register ``<prefix>_train`` and ``<prefix>_val`` with detectron2; images are generated on first use.

    Args:
        root: folder of the dataset; by default ``shapes`` in ``$DETECTRON2_DATASETS`` or in ``./datasets``.
        prefix: prefix of the dataset names.
    """
    if root is None:
        root = Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))) / "shapes"
    for split in SIZES:
        name = f"{prefix}_{split}"
        load = partial(load_shapes, root, split, name)
        load.loads_coco_json = True  # type: ignore[attr-defined]
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(
            json_file=str(annotation_file(root, split)),
            image_root=str(Path(root) / split),
            evaluator_type="coco",
            make_if_missing=partial(make_shapes, root),
        )
