"""Parts that DETR-like detectors share: box conversions, matching, losses, denoising, the deformable encoder and its inputs."""

from .channel_mapper import ChannelMapper
from .encoder import Encoder
from .matcher import HungarianMatcher
from .position_encoding import SinePositionEncoding

__all__ = ["ChannelMapper", "Encoder", "HungarianMatcher", "SinePositionEncoding"]
