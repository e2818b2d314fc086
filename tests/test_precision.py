"""Precisions by name, and what a device does not have."""

import pytest
import torch

from flash_internimage.precision import autocast_dtype

CPU = torch.device("cpu")


def test_dtypes_of_autocast():
    assert autocast_dtype("fp32", CPU) is None
    assert autocast_dtype("bf16", CPU) is torch.bfloat16
    assert autocast_dtype("fp16", torch.device("cuda")) is torch.float16


def test_what_is_refused_names_the_setting():
    with pytest.raises(ValueError, match="^precision=fp16: half precision needs a GPU; on a CPU use precision=bf16$"):
        autocast_dtype("fp16", CPU)
    with pytest.raises(ValueError, match="^train.amp.dtype=int8: expected fp32, bf16, fp16$"):
        autocast_dtype("int8", CPU, "train.amp.dtype")
