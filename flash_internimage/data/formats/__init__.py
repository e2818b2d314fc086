"""Datasets in YOLO, Pascal VOC and COCO layouts, converted to annotation files in COCO format."""

from .contents import WHOLE, Contents, Source
from .holdout import SPLIT_FILE, draw_validation, hold_out, record_validation, recorded_validation
from .recognition import recognize
from .voc import read_voc
from .yolo import read_data_yaml

__all__ = [
    "SPLIT_FILE",
    "WHOLE",
    "Contents",
    "Source",
    "draw_validation",
    "hold_out",
    "read_data_yaml",
    "read_voc",
    "recognize",
    "record_validation",
    "recorded_validation",
]
