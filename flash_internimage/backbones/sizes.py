"""Arguments of the published sizes of FlashInternImage, and the names of their ImageNet checkpoints."""

from __future__ import annotations

from typing import Any

# All sizes have 16 channels per group.
_T: dict[str, Any] = {
    "channels": 64,
    "depths": [4, 4, 18, 4],
    "groups": [4, 8, 16, 32],
    "mlp_ratio": 4.0,
    "drop_path_rate": 0.2,
    "layer_scale": 1.0,
    "offset_scale": 1.0,
    "post_norm": False,
    "kernel_size": 3,
    "dw_kernel_size": None,
    "center_feature_scale": False,
    "remove_center": False,
    "dcn_output_bias": False,
    "mlp_fc2_bias": False,
}
_S = {
    **_T,
    "channels": 80,
    "depths": [4, 4, 21, 4],
    "groups": [5, 10, 20, 40],
    "drop_path_rate": 0.3,
    "post_norm": True,
    "dw_kernel_size": 3,
}
_B = {**_S, "channels": 112, "groups": [7, 14, 28, 56], "offset_scale": 0.5}
_L = {
    **_S,
    "channels": 160,
    "depths": [5, 5, 22, 5],
    "groups": [10, 20, 40, 80],
    "drop_path_rate": 0.4,
    "offset_scale": 2.0,
    "dcn_output_bias": True,
    "mlp_fc2_bias": True,
}
SIZES: dict[str, dict[str, Any]] = {"t": _T, "s": _S, "b": _B, "l": _L}
"""Size -> arguments of :class:`~flash_internimage.backbones.flash_internimage.FlashInternImageBase`."""

IMAGENET_CHECKPOINTS = {
    "t": "hf://OpenGVLab/DCNv4/flash_intern_image_t_1k_224.pth",
    "s": "hf://OpenGVLab/DCNv4/flash_intern_image_s_1k_224.pth",
    "b": "hf://OpenGVLab/DCNv4/flash_intern_image_b_1k_224.pth",
    "l": "hf://OpenGVLab/DCNv4/flash_intern_image_l_22k_384.pth",
}
"""Size -> path of the ImageNet classifier that the published detectors were initialized with."""
