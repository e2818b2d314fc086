"""Meta-architectures: complete detectors, which map a list of input dicts to losses or detections, and their families."""

from .cascade_mask_rcnn import CASCADE_MASK_RCNN
from .mask_rcnn import MASK_RCNN
from .rcnn import RCNN
from .retinanet import RETINANET

__all__ = ["CASCADE_MASK_RCNN", "MASK_RCNN", "RCNN", "RETINANET"]
