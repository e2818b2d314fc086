"""Both operators under the transforms of torch.func, against torch.autograd without transforms."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

from flash_internimage.ops import dcnv4, ms_deform_attn

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

SHAPES = [(3, 4), (2, 2)]


def convolve(value: Tensor, offset_mask: Tensor) -> Tensor:
    return dcnv4(value, offset_mask, (3, 1), stride=(1, 2), padding=1, groups=2, remove_center=True)


def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return ms_deform_attn(value, SHAPES, locations, weights)


def draw(name: str, *batch: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    if name == "dcnv4":
        return [torch.randn(*batch, 2, 3, 4, 4, dtype=dtype), torch.randn(*batch, 2, 3, 3, 16, dtype=dtype)]
    return [
        torch.randn(*batch, 2, 16, 2, 3, dtype=dtype),
        torch.rand(*batch, 2, 5, 2, 2, 3, 2, dtype=dtype),
        torch.randn(*batch, 2, 5, 2, 2, 3, dtype=dtype),
    ]


OPERATORS = {"dcnv4": convolve, "ms_deform_attn": attend}
CASES = [(name, argument) for name, count in (("dcnv4", 2), ("ms_deform_attn", 3)) for argument in range(count)]
each_argument = pytest.mark.parametrize(("name", "argument"), CASES, ids=[f"{name}, argument {i}" for name, i in CASES])
each_operator = pytest.mark.parametrize("name", OPERATORS)


def loss(name: str) -> Callable[..., Tensor]:
    """A scalar that weights every element of the output differently."""

    def function(*inputs: Tensor) -> Tensor:
        output = OPERATORS[name](*inputs)
        return (output * torch.arange(output.numel(), dtype=output.dtype).view(output.shape).cos()).sum()

    return function


def autograd_gradients(name: str, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(loss(name)(*leaves), leaves)


@each_operator
def test_grad(name):
    inputs = draw(name)
    assert_close(grad(loss(name), tuple(range(len(inputs))))(*inputs), autograd_gradients(name, inputs), rtol=0, atol=0)


@each_argument
def test_grad_of_one_argument_alone(name, argument):
    inputs = draw(name)
    assert_close(grad(loss(name), argument)(*inputs), autograd_gradients(name, inputs)[argument])


@each_operator
def test_vjp(name):
    inputs = draw(name)
    output, pull_back = vjp(OPERATORS[name], *inputs)
    assert torch.equal(output, OPERATORS[name](*inputs))
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    assert_close(pull_back(output), torch.autograd.grad(OPERATORS[name](*leaves), leaves, output), rtol=0, atol=0)


@each_argument
def test_jacrev(name, argument):
    inputs = draw(name)
    expected = torch.autograd.functional.jacobian(OPERATORS[name], tuple(inputs))[argument]
    assert_close(jacrev(OPERATORS[name], argument)(*inputs), expected)


@each_operator
def test_gradients_of_every_sample_of_a_batch(name):
    inputs = draw(name, 3)
    expected = [autograd_gradients(name, [tensor[i] for tensor in inputs]) for i in range(3)]
    found = vmap(grad(loss(name), tuple(range(len(inputs)))))(*inputs)
    assert_close(found, tuple(torch.stack(each) for each in zip(*expected, strict=True)))


@each_operator
def test_gradients_through_vmap(name):
    inputs = [tensor.requires_grad_() for tensor in draw(name, 3)]
    found = torch.autograd.grad(vmap(loss(name))(*inputs).sum(), inputs)
    expected = [autograd_gradients(name, [tensor[i].detach() for tensor in inputs]) for i in range(3)]
    assert_close(found, tuple(torch.stack(each) for each in zip(*expected, strict=True)))


@each_operator
def test_tensors_outside_the_transform_keep_their_gradients(name):
    inputs = draw(name)
    inputs[0].requires_grad_()
    output = vmap(lambda scale: loss(name)(inputs[0] * scale, *inputs[1:]))(torch.ones(1, dtype=torch.float64))
    assert_close(torch.autograd.grad(output.sum(), inputs[0])[0], autograd_gradients(name, [t.detach() for t in inputs])[0])


@each_operator
def test_grad_under_autocast(name):
    inputs = draw(name, dtype=torch.float32)
    numbers = tuple(range(len(inputs)))
    with torch.autocast("cpu", torch.bfloat16):
        assert OPERATORS[name](*inputs).dtype == torch.bfloat16
        found, expected = grad(loss(name), numbers)(*inputs), autograd_gradients(name, inputs)
    assert [gradient.dtype for gradient in found] == [torch.float32] * len(inputs)
    assert_close(found, expected, rtol=0, atol=0)


def dual(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return function(forward_ad.make_dual(value, value))


@each_argument
@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(lambda function, value: jvp(function, (value,), (value,)), id="jvp"),
        pytest.param(lambda function, value: jacfwd(function)(value), id="jacfwd"),
        pytest.param(lambda function, value: hessian(lambda x: function(x).sum())(value), id="hessian"),
        pytest.param(dual, id="dual numbers"),
    ],
)
def test_forward_mode_is_refused_by_name(name, argument, transform):
    inputs = draw(name)

    def function(value: Tensor) -> Tensor:
        return OPERATORS[name](*inputs[:argument], value, *inputs[argument + 1 :])

    with pytest.raises(
        ValueError, match=f"^{name}: forward-mode differentiation .* use reverse mode .*grad, vjp, jacrev, also"
    ):
        transform(function, inputs[argument])


@each_argument
def test_a_second_derivative_is_refused_by_name(name, argument):
    inputs = draw(name)

    def gradient(value: Tensor) -> Tensor:
        return grad(loss(name), argument)(*inputs[:argument], value, *inputs[argument + 1 :]).square().sum()

    with pytest.raises(ValueError, match=f"^{name}: double backward is not implemented, .* use first derivatives only"):
        grad(gradient)(inputs[argument])
    output, pull_back = vjp(loss(name), *inputs)
    with pytest.raises(ValueError, match=f"^{name}: double backward is not implemented"):
        jvp(lambda scale: pull_back(scale)[argument], (output,), (output,))


@each_operator
def test_bad_arguments_have_the_usual_message(name):
    inputs = draw(name)
    with pytest.raises(ValueError, match=f"{name}: .* needs"):
        grad(loss(name))(inputs[0][0], *inputs[1:])
