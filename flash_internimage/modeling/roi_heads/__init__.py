"""RoI heads: box and mask heads on features pooled from proposals."""

from .cascade_rcnn import CascadeRoIHeads
from .fast_rcnn import BoxPredictor
from .mask_head import MaskHead
from .roi_heads import RoIHeads

__all__ = ["BoxPredictor", "CascadeRoIHeads", "MaskHead", "RoIHeads"]
