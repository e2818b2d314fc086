"""The linear layer has the results of ``nn.Linear``, computed by one call of oneDNN in inference."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from flash_internimage.layers import Linear

ON_ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")
needs_onednn = pytest.mark.skipif(not ON_ONEDNN, reason="needs an x86 CPU with AVX2, and PyTorch with oneDNN")

INPUTS = {
    "a vector": torch.randn(7),
    "rows": torch.randn(9, 7),
    "no rows": torch.randn(0, 7),
    "a feature map": torch.randn(2, 3, 4, 7),
    "a transposed feature map": torch.randn(2, 7, 3, 4).permute(0, 2, 3, 1),
    "a slice of the channels": torch.randn(2, 3, 8)[..., :7],
    "an expanded row": torch.randn(1, 7).expand(3, 7),
}


def operators(layer: nn.Module, x: Tensor) -> set[str]:
    """Names of the operators that a layer calls."""
    with torch.profiler.profile() as profile:
        layer(x)
    return {event.name for event in profile.events()}


def expected(layer: nn.Linear, x: Tensor) -> Tensor:
    product = x.double() @ layer.weight.double().t()
    return product if layer.bias is None else product + layer.bias.double()


@pytest.mark.parametrize("bias", [True, False], ids=["with bias", "without bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS.keys())
def test_inference_computes_the_product_and_the_bias(x: Tensor, dtype: torch.dtype, bias: bool):
    layer, x = Linear(7, 5, bias=bias, dtype=dtype), x.to(dtype)
    with torch.no_grad():
        output = layer(x)
        reference = expected(layer, x)
    assert output.dtype == dtype
    # One rounding of the result, and in bfloat16 possibly one of the sum before the bias.
    assert_close(output.double(), reference, rtol=2 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)


@needs_onednn
def test_float32_inference_calls_onednn_and_training_does_not():
    layer, x = Linear(7, 5), torch.randn(3, 7)
    assert "mkldnn::_linear_pointwise" not in operators(layer, x)
    with torch.no_grad():
        in_inference = operators(layer, x)
    assert "mkldnn::_linear_pointwise" in in_inference
    assert not in_inference & {"aten::linear", "aten::addmm"}


@needs_onednn
def test_inference_respects_the_switch_of_onednn():
    layer, x = Linear(7, 5), torch.randn(3, 7)
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        assert "mkldnn::_linear_pointwise" not in operators(layer, x)


def test_weights_cast_beforehand_change_nothing_under_autocast():
    layer, x = Linear(64, 48), torch.randn(100, 64)
    cast = Linear(64, 48, dtype=torch.bfloat16)
    cast.load_state_dict(layer.state_dict())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = [layer(x), cast(x)]
    assert outputs[0].dtype == outputs[1].dtype == torch.bfloat16
    # The order of bias and rounding may differ: an error of one unit in the last place.
    assert_close(*outputs, rtol=torch.finfo(torch.bfloat16).eps, atol=1e-3)


def test_gradients_are_those_of_the_linear_layer_of_pytorch():
    layer, peer, x = Linear(7, 5), nn.Linear(7, 5), torch.randn(3, 7)
    peer.load_state_dict(layer.state_dict())
    layer(x).square().sum().backward()
    peer(x).square().sum().backward()
    assert_close(layer.weight.grad, peer.weight.grad, rtol=0, atol=0)
    assert_close(layer.bias.grad, peer.bias.grad, rtol=0, atol=0)


def test_wrong_channels_get_the_message_of_pytorch():
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"shapes cannot be multiplied \(3x6 and 7x5\)"):
        Linear(7, 5)(torch.randn(3, 6))


@pytest.mark.parametrize("bias", [True, False])
def test_flops_are_counted_in_inference(bias):
    layer = Linear(24, 40, bias=bias)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(torch.rand(2, 3, 5, 24))
    assert counter.get_total_flops() == 2 * 2 * 3 * 5 * 24 * 40


@torch.no_grad()
def test_forward_mode_without_gradients():
    layer, x = Linear(8, 4), torch.randn(3, 8)
    _, tangent = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    assert_close(tangent, torch.ones_like(x) @ layer.weight.t())


@torch.no_grad()
def test_vmap_over_weights_without_gradients():
    layer, x, weights = Linear(8, 4), torch.randn(3, 8), torch.randn(5, 4, 8)
    outputs = torch.vmap(lambda weight: torch.func.functional_call(layer, {"weight": weight}, (x,)))(weights)
    assert_close(outputs, torch.einsum("ni,koi->kno", x, weights) + layer.bias, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_autocast_leaves_float64_alone():
    layer, x = Linear(8, 4).double(), torch.randn(3, 8, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.float64


class Wrapped(Tensor):
    """A tensor with a product of its own, as quantized and distributed weights have."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is nn.functional.linear:
            return torch.full((len(args[0]), len(args[1])), 7.0)
        return super().__torch_function__(function, types, args, kwargs or {})


@torch.no_grad()
def test_weights_of_another_type_compute_their_own_product():
    layer = Linear(8, 4)
    layer.weight = nn.Parameter(torch.randn(4, 8).as_subclass(Wrapped), requires_grad=False)
    assert (layer(torch.randn(3, 8)) == 7).all()


def test_symbolic_traces():
    layer, x = Linear(8, 4), torch.randn(3, 8)
    assert_close(torch.fx.symbolic_trace(nn.Sequential(layer))(x), layer(x))
