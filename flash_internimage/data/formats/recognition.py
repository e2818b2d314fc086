"""Recognition of the format of an exported dataset by the files in its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from flash_internimage.errors import UserError

from .coco import find_coco
from .contents import Source, find_files, split_folders
from .voc import read_voc
from .yolo import read_classes_txt, read_darknet, read_data_yaml

_KEYS = {"COCO": "data.train.json and data.train.images", "YOLO": "data.train.yolo", "VOC": "data.train.voc"}


def recognize(folder: str | Path) -> Source:
    """Return the dataset in a folder that Roboflow, CVAT, Label Studio or a similar tool has exported.

    Raises:
        UserError: the folder does not exist, or it holds a dataset in no known format or in several.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"data.root: expected an existing folder, got {root}; check the path")
    found: dict[str, Callable[[], Source]] = {}
    coco = find_coco(root)
    if coco is not None:
        found["COCO"] = lambda: coco
    yaml_file = find_data_yaml(root)
    if yaml_file is not None:
        found["YOLO"] = lambda: read_data_yaml(yaml_file)
    elif (root / "obj.data").is_file():
        found["YOLO"] = lambda: read_darknet(root)
    elif (root / "classes.txt").is_file() and (root / "labels").is_dir():
        found["YOLO"] = lambda: read_classes_txt(root)
    if has_voc(root):
        found["VOC"] = lambda: read_voc(root)
    if len(found) == 1:
        return next(iter(found.values()))()
    if found:
        keys = " or ".join(_KEYS[name] for name in found)
        raise UserError(
            f"data.root: expected annotations in one format in {root}, got {' and '.join(found)}; choose one by {keys}"
        )
    inside = [path for path in root.iterdir() if not path.name.startswith((".", "__"))]
    if len(inside) == 1 and inside[0].is_dir():  # an archive that was extracted into a folder of its own
        return recognize(inside[0])
    listed = ", ".join(sorted(path.name for path in inside)[:8]) or "nothing"
    raise UserError(
        f"data.root: expected a COCO, YOLO or Pascal VOC dataset in {root} (annotation files *.json, a data.yaml with names, "
        f"or XML files in Annotations, train or valid), got {listed}; check the path"
    )


def find_data_yaml(root: Path) -> Path | None:
    """Find the YAML file of a YOLO dataset: ``data.yaml``, or another file with a key ``names``."""
    if (root / "data.yaml").is_file():
        return root / "data.yaml"
    for file in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and "names" in content:
            return file
    return None


def has_voc(root: Path) -> bool:
    """Return whether a folder holds XML files where Pascal VOC datasets have them; not whether they are well-formed."""
    if (root / "Annotations").is_dir():
        return any(find_files(root / "Annotations", (".xml",)))
    return any(root.glob("*.xml")) or any(any(find_files(path, (".xml",))) for path in split_folders(root).values())
