"""Integration of the attention operator into PyTorch: dispatcher, tracing, autocast, error messages."""

import pytest
import torch

from flash_internimage.ops import ms_deform_attn

SHAPES = [(4, 5), (2, 3)]


def draw(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    shapes = [(2, 26, 3, 5), (2, 4, 3, 2, 2, 2), (2, 4, 3, 2, 2)]
    return [torch.rand(*shape, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("requires_grad", [False, True], ids=["inference", "training"])
def test_opcheck(requires_grad):
    value, locations, weights = (tensor.requires_grad_(requires_grad) for tensor in draw())
    torch.library.opcheck(torch.ops.flash_internimage.ms_deform_attn.default, (value, [4, 5, 2, 3], locations, weights))


def test_gradients_that_are_not_needed_are_not_computed():
    value, *points = draw()
    grad_output, shapes = torch.rand(2, 4, 15), [4, 5, 2, 3]
    backward = torch.ops.flash_internimage.ms_deform_attn_backward
    nothing = backward(grad_output, value, shapes, *points, False, False, False)
    assert [gradient.numel() for gradient in nothing] == [0, 0, 0]
    # The gradient of value needs only the shape of value.
    placeholder = value.new_full((), float("nan")).expand(value.shape)
    grad_value, *_ = backward(grad_output, placeholder, shapes, *points, True, False, False)
    expected, *_ = backward(grad_output, value, shapes, *points, True, True, True)
    assert torch.equal(grad_value, expected)


def test_compiles_without_a_graph_break():
    value, locations, weights = draw()
    compiled = torch.compile(lambda v, p, w: ms_deform_attn(v, SHAPES, p, w), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(value, locations, weights), ms_deform_attn(value, SHAPES, locations, weights))


def test_double_backward_raises_an_error():
    inputs = [tensor.requires_grad_() for tensor in draw()]
    output = ms_deform_attn(inputs[0], SHAPES, inputs[1], inputs[2])
    (gradient,) = torch.autograd.grad(output.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="ms_deform_attn: double backward is not implemented"):
        gradient.sum().backward()


def test_autocast_keeps_locations_and_weights_in_float32():
    value, locations, weights = draw()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ms_deform_attn(value, SHAPES, locations, weights)
    assert torch.equal(output, ms_deform_attn(value.bfloat16(), SHAPES, locations, weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(value=torch.rand(26, 3, 5)), r"value needs the shape \(batch, tokens, heads, channels\)"),
        (dict(value=torch.zeros(2, 26, 3, 5, dtype=torch.int64)), "value needs the dtype float32"),
        (dict(value=torch.rand(2, 25, 3, 5)), "value needs as many tokens as spatial_shapes has cells"),
        (dict(spatial_shapes=[(4, 5)]), "value needs as many tokens as spatial_shapes has cells"),
        (dict(spatial_shapes=[4, 5]), "spatial_shapes needs a .height, width. pair of integers for each level"),
        (dict(sampling_locations=torch.rand(2, 4, 3, 2, 2)), "sampling_locations needs the shape"),
        (dict(attention_weights=torch.rand(2, 4, 3, 2, 1)), "attention_weights needs the shape of sampling_locations"),
        (dict(attention_weights=torch.rand(2, 4, 3, 2, 2).double()), "attention_weights needs the dtype of value"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_messages(change, message):
    value, locations, weights = draw()
    inputs = dict(value=value, spatial_shapes=SHAPES, sampling_locations=locations, attention_weights=weights)
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(**inputs | change)


class Attention(torch.nn.Module):
    """Wraps the operator as a module, which torch.export requires."""

    def forward(self, value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return ms_deform_attn(value, SHAPES, locations, weights)


def test_exports():
    inputs = tuple(draw())
    exported = torch.export.export(Attention(), inputs)
    assert "flash_internimage.ms_deform_attn" in exported.graph_module.code
    assert torch.equal(exported.module()(*inputs), ms_deform_attn(inputs[0], SHAPES, *inputs[1:]))
