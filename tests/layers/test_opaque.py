"""Operators of compiled inference: as without compilation, found in compiled graphs and not in exported programs."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from flash_internimage.backbones.flash_internimage import FlashInternImageBase
from flash_internimage.layers import Linear, cast_weights, opaque

pytestmark = pytest.mark.usefixtures("fresh_compiler")

OPERATORS = {f"flash_internimage::compiled_{name}" for name in ("linear", "layer_norm", "gelu", "mlp_branch")}


@pytest.fixture(scope="module", autouse=True)
def tells_export_from_compilation():
    """Skip the tests where a function cannot see that ``torch.compile`` traces it, and not ``torch.export``."""
    is_known = hasattr(torch.compiler, "is_exporting")
    if not is_known or torch.compile(lambda x: x + int(torch.compiler.is_exporting()), backend="eager")(torch.zeros(())) != 0:
        pytest.skip("this PyTorch compiles standard operators (flash_internimage/layers/opaque.py)")


def network(post_norm: bool = False, layer_scale: float | None = 0.5) -> nn.Module:
    """A small backbone whose offsets and layer scales are not the same for all channels."""
    net = FlashInternImageBase(
        16, (1, 1), (1, 2), post_norm=post_norm, layer_scale=layer_scale, mlp_fc2_bias=post_norm, out_features=("res2", "res3")
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return net.eval()


def names_of(graph: torch.fx.Graph) -> set[str]:
    targets = (getattr(node.target, "_qualified_op_name", getattr(node.target, "_name", "")) for node in graph.nodes)
    return {str(target).removesuffix(".default") for target in targets}


class Recorder:
    """A backend of ``torch.compile`` that runs graphs as they are and keeps the names of their operators."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __call__(self, module: torch.fx.GraphModule, inputs: list) -> object:
        self.names |= names_of(module.graph)
        return module.forward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, {"post_norm": True}, {"layer_scale": None}],
    ids=["norm before the branch", "norm after the branch", "no layer scale"],
)
def test_compiled_inference_equals_eager(settings, dtype, monkeypatch):
    monkeypatch.setattr(opaque, "CHUNK_SIZE", 50)  # not a divisor of the number of positions
    net, image = network(**settings), torch.randn(2, 3, 40, 56)
    is_cast = dtype != torch.float32
    if is_cast:
        cast_weights(net, dtype)
    record = Recorder()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_cast):
        expected = net(image)
        found = torch.compile(net, backend=record, fullgraph=True)(image)
    assert record.names >= OPERATORS
    assert found.keys() == expected.keys()
    for name, feature in found.items():
        # The same kernels; chunks of other sizes may sum in another order.
        assert_close(feature, expected[name], atol=0.03 if is_cast else 1e-5, rtol=0.02 if is_cast else 1e-5)


def test_autocast_without_cast_weights_casts_them():
    net, image, record = network(), torch.randn(1, 3, 32, 32), Recorder()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = net(image)
        found = torch.compile(net, backend=record, fullgraph=True)(image)
    assert not record.names & {"flash_internimage::compiled_linear", "flash_internimage::compiled_mlp_branch"}
    for name, feature in found.items():
        assert_close(feature, expected[name], atol=0.03, rtol=0.02)


def test_training_and_exported_programs_have_none_of_them():
    net, image, record = network(), torch.randn(1, 3, 32, 32), Recorder()
    torch.compile(net, backend=record, fullgraph=True)(image)
    assert record.names
    assert not record.names & OPERATORS
    with torch.no_grad():
        for strict in (False, True):
            program = torch.export.export(net, (image,), strict=strict)
            names = names_of(program.graph)
            assert "flash_internimage::dcnv4" in names
            assert not names & OPERATORS


class Doubled(Linear):
    """As an adapter, it computes something else than its weight says."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def test_adapters_and_hooks_are_respected():
    net, image = network(), torch.randn(1, 3, 32, 32)
    first, second = net.levels[0].blocks[0].mlp, net.levels[1].blocks[0].mlp
    adapter = Doubled(first.fc1.in_features, first.fc1.out_features)
    adapter.load_state_dict(first.fc1.state_dict())
    first.fc1 = adapter
    second.fc2.register_forward_hook(lambda module, inputs, output: 3 * output)
    record = Recorder()
    with torch.no_grad():
        expected = net(image)
        found = torch.compile(net, backend=record)(image)
    assert "flash_internimage::compiled_mlp_branch" not in record.names
    for name, feature in found.items():
        assert_close(feature, expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_registration(dtype):
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype)

    x = random(1, 5, 7, 8)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(opaque.linear, (x, random(6, 8), random(6)), test_utils=checks)
    torch.library.opcheck(opaque.linear, (x, random(6, 8), None), test_utils=checks)
    torch.library.opcheck(opaque.layer_norm, (x, random(8), random(8), 1e-6), test_utils=checks)
    torch.library.opcheck(opaque.gelu, (x,), test_utils=checks)
    norm, fc1, fc2 = (random(8), random(8)), [random(16, 8), random(16)], [random(8, 16)]
    for gamma in (None, random(8)):
        torch.library.opcheck(opaque.mlp_branch, (x, *norm, fc1, fc2, gamma, 1e-6, False), test_utils=checks)
