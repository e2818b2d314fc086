"""Integration of DCNv4 into PyTorch: dispatcher, tracing, autocast, error messages."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from flash_internimage.ops import dcnv4
from tests.ops.dcnv4_oracle import Case, value_and_gradients

CASE = Case(batch=2, stride=(2, 1), group_channels=3)
OPERATOR = torch.ops.flash_internimage.dcnv4.default
BACKWARD = torch.ops.flash_internimage.dcnv4_backward.default


def settings_in_order(case=CASE):
    return tuple(list(entry) if isinstance(entry, tuple) else entry for entry in case.settings.values())


def inputs(case=CASE, dtype=torch.float64):
    value, offset_mask = case.draw(dtype=dtype)
    return value, offset_mask.nan_to_num()


@pytest.mark.parametrize("needs", [(), (0,), (1,), (0, 1)], ids=["no grad", "value", "offset_mask", "both"])
def test_opcheck(needs):
    tensors = inputs()
    for index in needs:
        tensors[index].requires_grad_()
    torch.library.opcheck(OPERATOR, (*tensors, *settings_in_order()))


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)], ids=["both", "value", "offset_mask"])
def test_opcheck_of_the_backward(needed):
    value, offset_mask = inputs()
    grad_output = torch.randn_like(CASE(value, offset_mask))
    torch.library.opcheck(BACKWARD, (grad_output, value, offset_mask, *settings_in_order(), *needed))


def test_gradients_that_are_not_needed_are_not_computed():
    value, offset_mask = inputs()
    grad_output = torch.randn_like(CASE(value, offset_mask))
    grad_value, grad_offset_mask = BACKWARD(grad_output, value, offset_mask, *settings_in_order(), False, False)
    assert grad_value.numel() == 0
    assert grad_offset_mask.numel() == 0


def test_saves_only_the_tensors_that_the_gradients_need():
    """Unless offset_mask needs a gradient, only the shape of the large value tensor is saved."""

    def saved_bytes(value, offset_mask):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            CASE(value, offset_mask)
        return sum(storages.values())

    value, offset_mask = inputs()
    both = value.numel() * 8 + offset_mask.numel() * 8
    assert saved_bytes(value, offset_mask) == 0
    assert saved_bytes(value, offset_mask.clone().requires_grad_()) == both
    assert saved_bytes(value.clone().requires_grad_(), offset_mask) == offset_mask.numel() * 8 + 8


@pytest.mark.parametrize("dynamic", [False, True], ids=["static shapes", "dynamic shapes"])
def test_compiles_without_a_graph_break(dynamic):
    def function(value, offset_mask):
        return dcnv4(value.sin(), offset_mask, 3, padding=1, groups=2).cos()

    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in [(4, 5), (6, 3)]:
        value, offset_mask = inputs(Case(size=size))
        for actual, expected in zip(
            value_and_gradients(compiled, value, offset_mask), value_and_gradients(function, value, offset_mask), strict=True
        ):
            assert_close(actual, expected, rtol=1e-12, atol=1e-12)


class Sampler(nn.Module):
    def forward(self, value, offset_mask):
        return dcnv4(value, offset_mask, 3, padding=1, groups=2)


def test_exports_with_any_batch_size():
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Sampler(), inputs(Case(batch=2)), dynamic_shapes={"value": {0: batch}, "offset_mask": {0: batch}}
    )
    value, offset_mask = inputs(Case(batch=3))
    assert torch.equal(program.module()(value, offset_mask), Sampler()(value, offset_mask))


def test_runs_on_meta_tensors():
    value, offset_mask = inputs()
    output = CASE(value.to("meta"), offset_mask.to("meta"))
    assert output.device.type == "meta"
    assert output.shape == CASE(value, offset_mask).shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_value_and_keeps_offset_mask_in_float32(dtype):
    value, offset_mask = inputs(dtype=torch.float32)
    offset_mask += 1e-3  # lost in either dtype, whose spacing near 1 is 4e-3 or 1e-3
    value.requires_grad_()
    offset_mask.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        output = CASE(value, offset_mask)
    assert output.dtype == dtype
    assert torch.equal(output, CASE(value.to(dtype), offset_mask))
    output.float().sum().backward()
    assert value.grad.dtype == torch.float32
    assert offset_mask.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_accepts_offset_mask_in_half_precision(dtype):
    value, offset_mask = inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        output = CASE(value, offset_mask.to(dtype))
    assert torch.equal(output, CASE(value.to(dtype), offset_mask.to(dtype)))


def test_autocast_does_not_cast_float64():
    value, offset_mask = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(CASE(value, offset_mask), CASE(value, offset_mask))
        assert CASE(value, offset_mask).dtype == torch.float64


def test_compiles_under_autocast():
    value, offset_mask = inputs(dtype=torch.float32)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def function(value, offset_mask):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return CASE(value, offset_mask)

    output = function(value, offset_mask)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, CASE(value.bfloat16(), offset_mask))


def test_double_backward_raises_an_error():
    value, offset_mask = inputs()
    value.requires_grad_()
    output = CASE(value, offset_mask.requires_grad_())
    (gradient,) = torch.autograd.grad(output.square().sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match="dcnv4: double backward is not implemented"):
        gradient.sum().backward()


def call(**changes):
    """Call dcnv4 with valid arguments, except for `changes`."""
    arguments = {
        "value": torch.zeros(2, 5, 6, 8),
        "offset_mask": torch.zeros(2, 5, 6, 54),
        "kernel_size": 3,
        "padding": 1,
        "groups": 2,
    }
    return dcnv4(**{**arguments, **changes})


# Changed arguments and the expected message.
SHAPE_ERRORS = {
    "value without batch": (
        {"value": torch.zeros(5, 6, 8)},
        "value needs the shape (batch, height, width, channels), got [5, 6, 8]",
    ),
    "offset_mask with an additional dimension": (
        {"offset_mask": torch.zeros(2, 5, 6, 2, 27)},
        "offset_mask needs the shape (batch, output height, output width, channels), got [2, 5, 6, 2, 27]",
    ),
    "groups do not divide the channels": (
        {"groups": 3},
        "value needs a number of channels that groups (3) divides, got 8",
    ),
    "different batch sizes": (
        {"offset_mask": torch.zeros(1, 5, 6, 54)},
        "offset_mask needs a batch size of 2, got 1 in shape [1, 5, 6, 54]",
    ),
    "wrong height": (
        {"offset_mask": torch.zeros(2, 4, 6, 54)},
        "offset_mask needs a height of 5, got 4 in shape [2, 4, 6, 54]",
    ),
    "wrong width": (
        {"offset_mask": torch.zeros(2, 5, 7, 54)},
        "offset_mask needs a width of 6, got 7 in shape [2, 5, 7, 54]",
    ),
    "too few channels": (
        {"offset_mask": torch.zeros(2, 5, 6, 53)},
        "offset_mask needs at least 54 channels (3 x 9 points x 2 groups), got 53 in shape [2, 5, 6, 53]",
    ),
    "kernel larger than the padded input": (
        {"kernel_size": 9},
        "the dilated kernel must fit the padded value, got a kernel of 9 on 7 cells (5 + 2 x padding 1)",
    ),
}

OTHER_ERRORS = {
    "integer value": (
        {"value": torch.zeros(2, 5, 6, 8, dtype=torch.int64)},
        "value needs the dtype float32, float64, float16 or bfloat16, got Long",
    ),
    "offset_mask in a wider dtype": (
        {"offset_mask": torch.zeros(2, 5, 6, 54, dtype=torch.float64)},
        "offset_mask needs the dtype of value, Float, got Double",
    ),
    "offset_mask in the other half-precision dtype": (
        {"value": torch.zeros(2, 5, 6, 8).half(), "offset_mask": torch.zeros(2, 5, 6, 54).bfloat16()},
        "offset_mask needs the dtype of value, Half, or Float, got BFloat16",
    ),
    "zero groups": ({"groups": 0}, "groups needs to be at least 1, got 0"),
    "zero stride": ({"stride": 0}, "stride needs a (height, width) pair of integers of at least 1, got [0, 0]"),
    "negative padding": ({"padding": (1, -1)}, "padding needs a (height, width) pair of integers of at least 0, got [1, -1]"),
    "zero dilation": ({"dilation": (0, 1)}, "dilation needs a (height, width) pair of integers of at least 1, got [0, 1]"),
    "zero kernel size": (
        {"kernel_size": (3, 0)},
        "kernel_size needs a (height, width) pair of integers of at least 1, got [3, 0]",
    ),
    "three strides": ({"stride": (1, 2, 3)}, "stride needs an integer or a (height, width) pair of integers, got (1, 2, 3)"),
    "float kernel size": ({"kernel_size": 3.0}, "kernel_size needs an integer or a (height, width) pair of integers, got 3.0"),
    "remove_center with an even kernel": (
        {"kernel_size": (3, 4), "remove_center": True},
        "remove_center needs a kernel_size with a center, so odd numbers, got [3, 4]",
    ),
    "padding overflows 32 bits": ({"padding": 2**30}, "with padding"),
}


@pytest.mark.parametrize(
    ("change", "message"), {**SHAPE_ERRORS, **OTHER_ERRORS}.values(), ids={**SHAPE_ERRORS, **OTHER_ERRORS}.keys()
)
def test_message(change, message):
    with pytest.raises((ValueError, RuntimeError)) as caught:
        call(**change)
    assert str(caught.value).startswith("dcnv4: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "message"), SHAPE_ERRORS.values(), ids=SHAPE_ERRORS.keys())
def test_tracing_gives_the_same_message(change, message):
    """Wrong shapes are reported when a model is traced, not when it first runs."""
    arguments = {name: entry.to("meta") if isinstance(entry, torch.Tensor) else entry for name, entry in change.items()}
    other = {"value": torch.zeros(2, 5, 6, 8, device="meta"), "offset_mask": torch.zeros(2, 5, 6, 54, device="meta")}
    with pytest.raises((ValueError, RuntimeError)) as caught:
        call(**{**other, **arguments})
    assert message in str(caught.value)


def test_output_gradient_of_the_wrong_shape():
    value, offset_mask = inputs()
    with pytest.raises(ValueError, match=r"dcnv4: grad_output needs the shape \[2, 3, 6, 6\]"):
        BACKWARD(torch.zeros(2, 3, 6, 5).double(), value, offset_mask, *settings_in_order(), True, True)


def test_first_call_without_the_compiled_library_raises_an_error(repository):
    script = """
import sys
sys.modules["flash_internimage._C"] = None
import torch
from flash_internimage.ops import dcnv4
try:
    dcnv4(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 3), 1)
except ValueError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("dcnv4: the compiled library flash_internimage._C could not be loaded (")
    assert "pip install" in run.stdout
