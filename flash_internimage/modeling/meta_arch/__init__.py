"""Meta-architectures: complete detectors, which map a list of input dicts to losses or detections."""

from .rcnn import RCNN

__all__ = ["RCNN"]
