"""The backbone and the parts of detectors that detectron2 lacks."""

from .anchor_generator import AnchorGenerator
from .box_regression import BoxTransform
from .boxes import PreciseBoxes
from .cascade import CascadeRoIHeads
from .fast_rcnn import BoxPredictor
from .flash_intern_image import FlashInternImage
from .mask_head import MaskHead
from .matcher import OverlapMatcher
from .poolers import RoIPooler
from .rcnn import RCNN
from .roi_heads import RoIHeads
from .rpn import RPN

__all__ = [
    "RCNN",
    "RPN",
    "AnchorGenerator",
    "BoxPredictor",
    "BoxTransform",
    "CascadeRoIHeads",
    "FlashInternImage",
    "MaskHead",
    "OverlapMatcher",
    "PreciseBoxes",
    "RoIHeads",
    "RoIPooler",
]
