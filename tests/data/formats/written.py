"""Writers of YOLO and Pascal VOC datasets, independent of the readers."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

from flash_internimage.data.shapes import annotation_file, write_split

NAMES = ["circle", "square", "star", "triangle"]
"""Classes of the shapes dataset in alphabetical order, by which Pascal VOC datasets number them."""

_XML = """<annotation>
  <filename>{name}</filename>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}</annotation>
"""
_OBJECT = """  <object>
    <name>{name}</name>
    <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
  </object>
"""


def write_coco(root: Path, train: int, val: int) -> None:
    """Write shapes with boxes alone: the categories are numbered as in the other formats, and there are no crowd regions."""
    for split, size in (("train", train), ("val", val)):
        write_split(root, split, size)
        content = json.loads(annotation_file(root, split).read_text())
        name_of = {category["id"]: category["name"] for category in content["categories"]}
        content["categories"] = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
        content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
        for annotation in content["annotations"]:
            annotation["category_id"] = 1 + NAMES.index(name_of[annotation["category_id"]])
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
            del annotation["segmentation"]
        annotation_file(root, split).write_text(json.dumps(content))


def _by_image(coco: Path, split: str) -> list[tuple[dict, list[dict]]]:
    content = json.loads(annotation_file(coco, split).read_text())
    of_image = defaultdict(list)
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    return [(image, of_image[image["id"]]) for image in content["images"]]


def write_yolo(coco: Path, root: Path) -> Path:
    """Convert to ``images/train``, ``labels/train``, ... with ``data.yaml``; images without objects have no label file."""
    for split in ("train", "val"):
        shutil.copytree(coco / split, root / "images" / split)
        (root / "labels" / split).mkdir(parents=True)
        for image, objects in _by_image(coco, split):
            lines = []
            for annotation in objects:
                x, y, w, h = annotation["bbox"]
                numbers = [(x + w / 2) / image["width"], (y + h / 2) / image["height"], w / image["width"], h / image["height"]]
                lines.append(" ".join([str(annotation["category_id"] - 1), *(f"{number:.9f}" for number in numbers)]))
            if lines:
                (root / "labels" / split / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines) + "\n")
    file = root / "data.yaml"
    file.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {json.dumps(NAMES)}\n")
    return file


def write_voc(coco: Path, root: Path) -> None:
    """Convert to ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split in ("train", "val"):
        names = []
        for image, objects in _by_image(coco, split):
            name = image["file_name"]
            shutil.copy(coco / split / name, root / "JPEGImages" / name)
            elements = "".join(
                _OBJECT.format(x + 1, y + 1, x + w, y + h, name=NAMES[a["category_id"] - 1])
                for a in objects
                for x, y, w, h in [a["bbox"]]
            )
            stem = name.removesuffix(".jpg")
            size = {"width": image["width"], "height": image["height"]}
            (root / "Annotations" / f"{stem}.xml").write_text(_XML.format(name=name, objects=elements, **size))
            names.append(stem)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
