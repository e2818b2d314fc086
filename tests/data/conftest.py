"""Fixtures: a small shapes dataset, and a writer of small datasets in COCO format."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from flash_internimage.data import make_shapes, register_shapes
from flash_internimage.data.shapes import SIZES


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a shapes dataset with a few images, registered as ``small_shapes_train`` and ``small_shapes_val``."""
    root = tmp_path_factory.mktemp("datasets") / "shapes"
    make_shapes(root, {"train": 14, "val": 6})
    register_shapes(root, prefix="small_shapes")
    yield root
    for split in SIZES:
        DatasetCatalog.remove(f"small_shapes_{split}")
        MetadataCatalog.remove(f"small_shapes_{split}")


@pytest.fixture
def write_dataset(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """A function that writes two images and an annotation file, whose content the caller may change first."""

    def write(change: Callable[[dict], object] = lambda content: None, name: str = "own data") -> tuple[Path, Path]:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        for number in (1, 2):
            pixels = np.full((60, 80, 3), 40 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg")
        content = {
            "images": [{"id": 10 * n, "file_name": f"{n}.jpg", "height": 60, "width": 80} for n in (1, 2)],
            "annotations": [
                {
                    "id": n,
                    "image_id": 10 * n,
                    "category_id": category,
                    "bbox": [5, 5, 20, 30],
                    "area": 600,
                    "iscrowd": 0,
                    "segmentation": [[5, 5, 25, 5, 25, 35, 5, 35]],
                }
                for n, category in ((1, 42), (2, 7))
            ],
            "categories": [{"id": 42, "name": "mug"}, {"id": 7, "name": "spoon"}],
        }
        change(content)
        file = folder / "annotations.json"
        file.write_text(json.dumps(content))
        return file, folder / "images"

    return write
