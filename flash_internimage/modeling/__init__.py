"""MMDetection's variants of detectron2's detector parts, and the FlashInternImage backbone.

The folders are those of ``detectron2.modeling``. The published checkpoints were trained in MMDetection, whose anchors,
matching, sampling, losses and test-time selection differ from detectron2's in details that change the results. Each class
here extends or replaces one detectron2 class, and its docstring names that class and the differences.
"""

from .anchor_generator import AnchorGenerator
from .backbone import FlashInternImage
from .box_regression import BoxTransform
from .matcher import IoUMatcher
from .meta_arch import RCNN
from .poolers import RoIPooler
from .proposal_generator import RPN
from .roi_heads import BoxPredictor, CascadeRoIHeads, MaskHead, RoIHeads

__all__ = [
    "RCNN",
    "RPN",
    "AnchorGenerator",
    "BoxPredictor",
    "BoxTransform",
    "CascadeRoIHeads",
    "FlashInternImage",
    "IoUMatcher",
    "MaskHead",
    "RoIHeads",
    "RoIPooler",
]
