"""``nn.Module`` layers: wrappers of the operators in :mod:`flash_internimage.ops`, and normalization."""

from .batch_norm import SyncBatchNorm
from .dcnv4 import DCNv4
from .layer_norm import LayerNorm2d
from .ms_deform_attn import MSDeformAttn

__all__ = ["DCNv4", "LayerNorm2d", "MSDeformAttn", "SyncBatchNorm"]
