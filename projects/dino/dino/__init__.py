"""DINO, a DETR-like detector over multi-scale deformable attention, and its parts."""

from .channel_mapper import ChannelMapper
from .criterion import DINOCriterion
from .decoder import Decoder
from .denoising import ContrastiveDenoising
from .dino import DINO
from .encoder import Encoder
from .matcher import HungarianMatcher
from .position_encoding import SinePositionEncoding
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
