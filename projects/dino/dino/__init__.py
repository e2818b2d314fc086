"""DINO, a DETR-like detector over multi-scale deformable attention, and its parts."""

from flash_internimage.modeling.detr.channel_mapper import ChannelMapper
from flash_internimage.modeling.detr.encoder import Encoder
from flash_internimage.modeling.detr.matcher import HungarianMatcher
from flash_internimage.modeling.detr.position_encoding import SinePositionEncoding

from .criterion import DINOCriterion
from .decoder import Decoder
from .denoising import ContrastiveDenoising
from .dino import DINO
from .query_selection import QuerySelection
from .transformer import DINOTransformer

__all__ = [
    "DINO",
    "ChannelMapper",
    "ContrastiveDenoising",
    "DINOCriterion",
    "DINOTransformer",
    "Decoder",
    "Encoder",
    "HungarianMatcher",
    "QuerySelection",
    "SinePositionEncoding",
]
