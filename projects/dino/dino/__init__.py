"""DINO, a DETR-like detector with two-stage query selection and contrastive denoising; shared parts: ``modeling.detr``."""

from .criterion import DINOCriterion
from .decoder import Decoder
from .denoising import ContrastiveDenoising
from .dino import DINO
from .family import DINO_FAMILY
from .query_selection import QuerySelection
from .transformer import DINOTransformer

__all__ = [
    "DINO",
    "DINO_FAMILY",
    "ContrastiveDenoising",
    "DINOCriterion",
    "DINOTransformer",
    "Decoder",
    "QuerySelection",
]
