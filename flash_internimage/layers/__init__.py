"""``nn.Module`` layers: wrappers of the operators in :mod:`flash_internimage.ops`, and normalization."""

from .batch_norm import SyncBatchNorm
from .dcnv4 import DCNv4
from .dcnv4_conv2d import DCNv4Conv2d
from .layer_norm import LayerNorm, LayerNorm2d
from .linear import Linear
from .ms_deform_attn import MSDeformAttn
from .precision import cast_weights

__all__ = ["DCNv4", "DCNv4Conv2d", "LayerNorm", "LayerNorm2d", "Linear", "MSDeformAttn", "SyncBatchNorm", "cast_weights"]
