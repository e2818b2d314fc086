"""MMDetection's variants of detectron2's detector parts, and the FlashInternImage backbone.

The folders are those of ``detectron2.modeling``. Each class extends the detectron2 class it is named after and changes only
what MMDetection, in which the published checkpoints were trained, does differently (sampling, anchors, losses, test-time
selection), so that the published weights give the published numbers.
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
