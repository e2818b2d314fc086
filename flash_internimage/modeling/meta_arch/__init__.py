"""Meta-architectures: whole detectors, from a list of input dicts to losses or detections."""

from .rcnn import RCNN

__all__ = ["RCNN"]
