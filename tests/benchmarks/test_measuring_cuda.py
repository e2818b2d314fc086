"""The parts of the GPU benchmarks that need no GPU: errors, failures, tables, summaries, the time limit."""

import contextlib
import functools
import math

import pytest
import torch
from torch._dynamo.testing import CompileCounter


@pytest.fixture
def cuda(benchmark_module):
    return benchmark_module("measuring_cuda")


@pytest.fixture
def without_gpu(cuda, monkeypatch):
    """Replace streams and times, so that measurements run on the CPU."""

    class Stream:
        def wait_stream(self, other):
            pass

    def time_call(call):
        call()
        return cuda.Timing(1.0, 2.0, 0.5, "graph")

    for name, replacement in dict(
        Stream=Stream, current_stream=Stream, stream=lambda stream: contextlib.nullcontext(), synchronize=lambda: None
    ).items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    monkeypatch.setattr(cuda, "time_call", time_call)


def measured(cuda, kernel, error=0.0, method="graph"):
    return cuda.Measured(cuda.Timing(kernel, 2 * kernel, 0.004, method), error)


@pytest.mark.parametrize(("milliseconds", "calls"), [(1e-4, 200), (0.5, 20), (30.0, 1)], ids=["short", "medium", "long"])
def test_calls_are_timed_together_until_they_take_long_enough(cuda, milliseconds, calls):
    assert cuda.calls_per_replay(milliseconds) == calls


def test_error_is_relative_to_the_largest_element(cuda):
    exact = torch.tensor([1.0, -4.0], dtype=torch.float64)
    assert cuda.largest_error([torch.tensor([1.0, -4.0])], [exact]) == 0
    assert cuda.largest_error([torch.tensor([1.5, -4.0])], [exact]) == 0.125
    assert cuda.largest_error([torch.tensor([math.nan, -4.0])], [exact]) == math.inf


def problem(cuda, peer, double_ours=False):
    def ours(value, weight):
        return value * weight * (1 + (double_ours and value.dtype != torch.float64))

    def draw(dtype):
        return [torch.randn(3, 4, dtype=dtype), torch.randn(3, 4, dtype=dtype)]

    return cuda.Problem("3 x 4", "float32", draw, cuda.Candidate("this project", ours), [cuda.Candidate("peer", peer)])


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, weight):
        return value * weight

    @staticmethod
    def backward(ctx, grad_output):
        raise RuntimeError("not implemented for 'BFloat16'\nfile.cu:12")


def test_forward_is_kept_when_the_backward_of_a_peer_fails(cuda, without_gpu):
    forward, backward = cuda.measure_problem(problem(cuda, FailsBackward.apply))
    assert (forward.ours.error, backward.ours.error) == (pytest.approx(0, abs=1e-6),) * 2
    assert cuda.speedup(forward, "peer") == 1
    assert cuda.speedup(backward, "peer") is None
    assert "failed: not implemented for 'BFloat16' |" in cuda.line(backward)


def test_a_wrong_result_of_a_peer_has_no_speedup(cuda, without_gpu):
    for row in cuda.measure_problem(problem(cuda, lambda value, weight: 2 * value * weight)):
        assert row.peers["peer"].error == pytest.approx(1)
        assert cuda.speedup(row, "peer") is None
        assert "**wrong:** 1.0e+00" in cuda.line(row)
        assert not cuda.fails(row)


def test_a_wrong_result_of_this_project_fails_the_report(cuda, without_gpu, tmp_path):
    def multiply(value, weight):
        return value * weight

    path = tmp_path / "results" / "table.md"
    assert cuda.Report(path, 60).measure([problem(cuda, multiply)], {}) == 0
    assert "0 of 2 rows of this project are wrong" in path.read_text()
    assert cuda.Report(path, 60).measure([problem(cuda, multiply, double_ours=True)], {}) == 1
    assert "2 of 2 rows of this project are wrong" in path.read_text()


def test_the_time_limit_leaves_problems_out_and_says_so(cuda, tmp_path):
    path = tmp_path / "table.md"
    assert cuda.Report(path, -1).measure([problem(cuda, torch.mul)] * 3, {}) == 1
    assert "3 problems were left out for lack of time" in path.read_text()


def test_table_and_summary(cuda):
    rows = [
        cuda.Row("A", "float32", "forward", measured(cuda, 1.0), {"peer": measured(cuda, 2.0)}),
        cuda.Row("B", "float32", "forward", measured(cuda, 2.0, method="events"), {"peer": measured(cuda, 1.0)}),
    ]
    columns = cuda.header(["peer"]).splitlines()[0].count("|")
    assert {cuda.line(row).count("|") for row in rows} == {columns}
    assert cuda.line(rows[0]).startswith("| A | float32 | forward | 1.0000 | 2.0000 | 4 | 0.0e+00 | 2.0000 (2.00x) |")
    assert "2.0000 (events)" in cuda.line(rows[1])
    text = cuda.summary(rows, {"forward": 1.3})
    assert text[0] == ("- float32, forward: 1.00x as fast as peer (geometric mean), at least 0.50x (B); 1.3x in 1 of 2 shapes")
    assert text[1] == "- float32, backward: no time of peer"


@pytest.mark.parametrize("name", ["dcnv4_cuda", "ms_deform_attn_cuda"])
def test_programs_need_a_gpu(benchmark_module, monkeypatch, name):
    module = benchmark_module(name)
    monkeypatch.setattr("sys.argv", [name])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=f"{name}: no GPU was found; this benchmark needs one"):
        module.main()


def test_shapes_of_dcnv4(benchmark_module):
    module = benchmark_module("dcnv4_cuda")
    options = module.parse(["--images", "800x1333", "--batches", "1", "8"])
    shapes = list(module.shapes(options.images, options.batches))
    assert len(shapes) == 2 * 4 * 4
    assert shapes[0] == ("T res2, 1 x 800x1333", 1, 200, 336, 4)
    assert shapes[-1] == ("L res5, 8 x 800x1333", 8, 25, 42, 80)
    value, offset_mask = shapes[3]._replace(height=3, width=4).draw(torch.bfloat16, device="cpu")
    assert (value.shape, offset_mask.shape) == ((1, 3, 4, 512), (1, 3, 4, 864))
    offsets = offset_mask.unflatten(3, (32, 27))[..., :18].float()
    assert (offsets - offsets.round()).abs().min() >= 1 / 32
    assert module.ours(32).function(value, offset_mask).shape == value.shape


@pytest.mark.parametrize(
    ("code", "obstacle"),
    [
        ("raise NotImplementedError", "it refuses compute capability 10.0"),
        ("raise ImportError('libcudart.so.13: cannot open')", "libcudart.so.13: cannot open"),
        ("raise RuntimeError", "RuntimeError"),
    ],
    ids=["compute capability", "library", "no text"],
)
def test_the_table_says_why_the_peer_is_missing(benchmark_module, monkeypatch, tmp_path, code, obstacle):
    module = benchmark_module("dcnv4_cuda")
    (tmp_path / "DCNv4").mkdir()
    (tmp_path / "DCNv4" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (10, 0))
    monkeypatch.setattr(module, "require_gpu", lambda program: None)
    monkeypatch.setattr(module, "machine", lambda: "Some GPU")
    table = tmp_path / "table.md"
    monkeypatch.setattr("sys.argv", ["dcnv4_cuda", "--seconds", "-1", "--output", str(table)])
    module.main()
    assert f"DCNv4 1.0.0.post2 was not measured: {obstacle}.\n" in table.read_text()


def test_every_problem_is_compiled(benchmark_module, monkeypatch):
    """Without a reset, torch.compile runs a function eagerly from the ninth graph on."""
    module = benchmark_module("ms_deform_attn_cuda")
    counter = CompileCounter()
    monkeypatch.setattr(module, "LEVELS", ((4, 3), (2, 2)))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    for index, each in enumerate(module.problems(module.parse(["--peers", "compiled"]))):
        (compiled,) = each.peers
        tensors = each.draw(torch.float32, device="cpu")
        with torch.no_grad():
            compiled.function(*tensors)
        compiled.function(*(tensor.requires_grad_() for tensor in tensors))
        assert counter.frame_count == 2 * (index + 1)
