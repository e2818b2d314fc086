"""Both operators on CUDA tensors: gradients, autocast, streams, graphs, misaligned tensors, 64-bit indices.

The tests of the results themselves run on a GPU too: those parametrized with ``CUDA``, through the fixture ``kernels``.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from flash_internimage.ops import dcnv4, ms_deform_attn
from tests.ops import test_ms_deform_attn
from tests.ops.dcnv4_oracle import Case

pytestmark = pytest.mark.gpu

CASE = Case(batch=2, size=(9, 8), groups=3, group_channels=16, stride=(2, 1))
ATTENTION = dict(batch=2, queries=11, heads=3, channels=16, shapes=[(7, 5), (1, 4), (3, 1)], points=4)


class Operator(NamedTuple):
    """An operator with fixed settings, as a function of its tensors."""

    name: str
    call: Callable[..., Tensor]
    draw: Callable[..., list[Tensor]]  # (dtype, seed) -> tensors on the CPU

    def results(self, tensors: list[Tensor], grad_output: Tensor | None = None) -> list[Tensor]:
        """The output and the gradients of all tensors, for an output gradient that is random by default."""
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        output = self.call(*leaves)
        if grad_output is None:
            grad_output = self.draw_gradient(output)
        return [output.detach(), *torch.autograd.grad(output, leaves, grad_output)]

    def draw_gradient(self, output: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)


def draw_dcnv4(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    value, offset_mask = CASE.draw(dtype=torch.float64, seed=seed)
    return [value.to(dtype), offset_mask.nan_to_num().to(dtype)]


def draw_attention(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    value, _, locations, weights = test_ms_deform_attn.draw(**ATTENTION, seed=seed)
    return [tensor.to(dtype) for tensor in (value, locations, weights)]


def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return ms_deform_attn(value, ATTENTION["shapes"], locations, weights)


OPERATORS = [Operator("dcnv4", CASE, draw_dcnv4), Operator("ms_deform_attn", attend, draw_attention)]
each_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)


def on_gpu(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.cuda() for tensor in tensors]


def assert_near(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Compare with results in float64 of the same inputs."""
    for ours, exact in zip(actual, expected, strict=True):
        # One rounding to the dtype, and sums of at most a few hundred terms in float32 or float64.
        accumulation = 1e-12 if ours.dtype == torch.float64 else 1e-5
        rounding = 2 * torch.finfo(ours.dtype).eps
        exact = exact.double().cpu()
        assert_close(ours.double().cpu(), exact, rtol=rounding, atol=accumulation * (1 + exact.abs().max().item()))


@each_dtype
@each_operator
def test_equals_the_cpu(operator, dtype):
    tensors = operator.draw(dtype)
    actual = operator.results(on_gpu(tensors))
    assert [result.device.type for result in actual] == ["cuda"] * len(actual)
    assert [result.dtype for result in actual] == [dtype] * len(actual)
    grad_output = operator.draw_gradient(actual[0]).double().cpu()
    assert_near(actual, operator.results([tensor.double() for tensor in tensors], grad_output))


@each_operator
def test_gradcheck(operator):
    tensors = [tensor[:1].cuda().requires_grad_() for tensor in operator.draw(torch.float64)]
    # Atomics add in any order.
    assert torch.autograd.gradcheck(operator.call, tensors, nondet_tol=1e-12)


@each_operator
def test_opcheck(operator):
    tensors = [tensor.requires_grad_() for tensor in on_gpu(operator.draw())]
    if operator.name == "dcnv4":
        arguments = *tensors, *(list(entry) if isinstance(entry, tuple) else entry for entry in CASE.settings.values())
    else:
        arguments = tensors[0], [size for shape in ATTENTION["shapes"] for size in shape], *tensors[1:]
    torch.library.opcheck(getattr(torch.ops.flash_internimage, operator.name).default, arguments)


# Triton compiles a small module in C for each process.
needs_c_compiler = pytest.mark.skipif(
    not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
    or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="Triton needs a C compiler (gcc, clang or $CC) and Python.h",
)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=needs_c_compiler)])
@each_operator
def test_compiles_without_a_graph_break(operator, backend):
    tensors = on_gpu(operator.draw())
    compiled = torch.compile(lambda *inputs: operator.call(*inputs).cos(), fullgraph=True, backend=backend)
    assert_close(compiled(*tensors), operator.call(*tensors).cos())


@each_operator
def test_non_contiguous_tensors(operator):
    tensors = on_gpu(operator.draw())
    strided = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in tensors]
    assert not any(tensor.is_contiguous() for tensor in strided)
    for actual, expected in zip(operator.results(strided), operator.results(tensors), strict=True):
        assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_operator
def test_autocast_keeps_points_in_float32(operator, dtype):
    """Forward in the region, backward outside of it, as in training."""
    leaves = [tensor.requires_grad_() for tensor in on_gpu(operator.draw())]
    with torch.autocast("cuda", dtype=dtype):
        output = operator.call(*leaves)
    assert output.dtype == dtype
    assert torch.equal(output, operator.call(leaves[0].to(dtype), *leaves[1:]))
    output.float().sum().backward()
    assert [leaf.grad.dtype for leaf in leaves] == [torch.float32] * len(leaves)
    expected = operator.results([leaves[0].detach().to(dtype), *leaves[1:]], torch.ones_like(output))
    assert_near([leaf.grad for leaf in leaves[1:]], expected[2:])
    assert_close(leaves[0].grad, expected[1].float(), rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@each_operator
def test_double_backward_raises_an_error(operator):
    leaves = [tensor.requires_grad_() for tensor in on_gpu(operator.draw())]
    (gradient,) = torch.autograd.grad(operator.call(*leaves).square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match=f"{operator.name}: double backward is not implemented"):
        gradient.sum().backward()


@each_operator
def test_the_gradient_of_value_is_said_to_be_nondeterministic(operator):
    leaves = [tensor.requires_grad_() for tensor in on_gpu(operator.draw())]
    output = operator.call(*leaves)
    torch.use_deterministic_algorithms(True)
    try:
        torch.autograd.grad(output.sum(), leaves[1:], retain_graph=True)
        with pytest.raises(RuntimeError, match=f"{operator.name}_backward_cuda does not have a deterministic implementation"):
            torch.autograd.grad(output.sum(), leaves[0])
    finally:
        torch.use_deterministic_algorithms(False)


@each_operator
def test_tensors_on_two_devices_raise_an_error(operator):
    value, *points = operator.draw()
    with pytest.raises((ValueError, RuntimeError), match="needs the device of value|on the same device"):
        operator.call(value.cuda(), *points)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@each_operator
def test_runs_on_the_device_of_its_tensors(operator):
    tensors = operator.draw()
    actual = operator.results([tensor.to("cuda:1") for tensor in tensors])
    assert torch.cuda.current_device() == 0
    for ours, expected in zip(actual, operator.results(tensors), strict=True):
        assert ours.device == torch.device("cuda:1")
        assert_close(ours.cpu(), expected, rtol=1e-5, atol=1e-5)


# Streams and graphs

BUSY_CYCLES = 50_000_000  # tens of milliseconds, in which the default stream would have finished


@each_operator
def test_runs_on_the_current_stream(operator):
    """The stream is busy before it writes the inputs, so that kernels on any other stream would read zeros."""
    tensors = on_gpu(operator.draw())
    expected = operator.results(tensors)
    grad_output = operator.draw_gradient(expected[0])
    late = [torch.zeros_like(tensor) for tensor in tensors]
    late_gradient = torch.zeros_like(grad_output)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(BUSY_CYCLES)
        for target, source in zip([*late, late_gradient], [*tensors, grad_output], strict=True):
            target.copy_(source)
        leaves = [tensor.requires_grad_() for tensor in late]
        output = operator.call(*leaves)
        gradients = torch.autograd.grad(output, leaves, late_gradient)
    stream.synchronize()
    for actual, desired in zip([output, *gradients], expected, strict=True):
        assert_close(actual, desired, rtol=1e-5, atol=1e-5)


@each_operator
def test_does_not_synchronize(operator):
    leaves = [tensor.requires_grad_() for tensor in on_gpu(operator.draw())]
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(operator.call(*leaves).sum(), leaves)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_dtype
@each_operator
def test_cuda_graph(operator, dtype):
    """A graph with forward and backward, replayed with the inputs of another seed."""
    leaves = [tensor.requires_grad_() for tensor in on_gpu(operator.draw(dtype))]
    grad_output = operator.draw_gradient(operator.call(*leaves))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # warm-up
        torch.autograd.grad(operator.call(*leaves), leaves, grad_output)
    torch.cuda.current_stream().wait_stream(stream)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = operator.call(*leaves)
        gradients = torch.autograd.grad(output, leaves, grad_output)
    others = on_gpu(operator.draw(dtype, seed=5))
    with torch.no_grad():
        for leaf, other in zip(leaves, others, strict=True):
            leaf.copy_(other)
    graph.replay()
    exact = operator.results([other.double() for other in others], grad_output.double())
    assert_near([output.detach(), *gradients], exact)
    graph.replay()  # gradients are not accumulated from one replay to the next
    assert_near([output.detach(), *gradients], exact)


# Addresses and sizes


@each_dtype
@pytest.mark.parametrize("position", [0, 1, -1], ids=["value", "points", "grad_output"])
@each_operator
def test_a_misaligned_tensor(operator, position, dtype):
    """A view that starts one element after an aligned address, which does not allow vectorized accesses."""
    tensors = on_gpu(operator.draw(dtype))
    everything = [*tensors, operator.draw_gradient(operator.call(*tensors))]
    aligned = everything[position]
    moved = torch.empty(aligned.numel() + 1, dtype=dtype, device="cuda")[1:].view(aligned.shape).copy_(aligned)
    assert moved.data_ptr() % 16 == dtype.itemsize
    expected = operator.results([tensor.double() for tensor in tensors], everything[-1].double())
    everything[position] = moved
    assert_near(operator.results(everything[:-1], everything[-1]), expected)


HEIGHT, WIDTH, GROUPS, CHANNELS = 8192, 4104, 4, 16


def huge_value() -> Tensor:
    """A feature map of more than 2^31 elements, with all that a backward allocates within the free memory."""
    elements = HEIGHT * WIDTH * GROUPS * CHANNELS
    assert elements > 2**31
    free, needed = torch.cuda.mem_get_info()[0], 15 * elements  # in float16 and, for the sum of gradients, float32
    if free < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free GPU memory, got {free / 2**30:.0f}")
    value = torch.empty(1, HEIGHT, WIDTH, GROUPS * CHANNELS, dtype=torch.float16, device="cuda")
    return value.normal_()


def test_dcnv4_on_more_elements_than_32_bit_indices():
    """A 1 x 1 kernel whose points lie one pixel to the right shifts the feature map, and its gradient back."""
    value = huge_value().requires_grad_()
    offset_mask = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float16, device="cuda").repeat(GROUPS)
    offset_mask = offset_mask.expand(1, HEIGHT, WIDTH, 3 * GROUPS).contiguous().requires_grad_()
    output = dcnv4(value, offset_mask, 1, groups=GROUPS)
    strips = [slice(start, start + 1024) for start in range(0, HEIGHT, 1024)]  # comparing all at once would take more memory
    for rows in strips:
        assert torch.equal(output[:, rows, :-1], value[:, rows, 1:])
    assert (output[:, :, -1] == 0).all()
    grad_value, grad_offset_mask = torch.autograd.grad(output, (value, offset_mask), output.detach())
    for rows in strips:
        assert torch.equal(grad_value[:, rows, 1:], output[:, rows, :-1])
        squares = output[:, rows].detach().float().square().unflatten(3, (GROUPS, CHANNELS)).sum(-1)
        assert_close(grad_offset_mask[:, rows, :, 2::3].float(), squares, rtol=2e-3, atol=1e-5)
    assert (grad_value[:, :, 0] == 0).all()


def test_ms_deform_attn_on_more_elements_than_32_bit_indices():
    """Queries at the centers of pixels read these pixels, from the first to the last row."""
    value = huge_value().flatten(1, 2).unflatten(2, (GROUPS, CHANNELS)).detach().requires_grad_()
    rows = torch.arange(0, HEIGHT, 31, device="cuda")
    columns = (rows * 7) % WIDTH
    # Each query has its own pixel. In float32 a location is rounded by 3e-8, its pixel coordinate therefore by 5e-4.
    centers = torch.stack([(columns + 0.5) / WIDTH, (rows + 0.5) / HEIGHT], dim=-1)
    locations = centers[None, :, None, None, None].expand(1, len(rows), GROUPS, 1, 1, 2).contiguous()
    weights = torch.ones(locations.shape[:-1], device="cuda")
    output = ms_deform_attn(value, [(HEIGHT, WIDTH)], locations, weights)
    pixels = value.detach()[:, rows * WIDTH + columns].flatten(2)
    assert_close(output, pixels, rtol=2e-3, atol=0.02)
    (grad_value,) = torch.autograd.grad(output, value, torch.ones_like(output))
    assert_close(grad_value[:, rows * WIDTH + columns], torch.ones_like(grad_value[:, : len(rows)]), rtol=0, atol=5e-3)
    total = sum(part.float().sum().item() for part in grad_value.split(2**20, dim=1))
    assert total == pytest.approx(output.numel(), rel=1e-3)
