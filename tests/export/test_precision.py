"""Half precision of the linear layers and convolutions of a program."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from flash_internimage.export.precision import round_layers


class Net(nn.Module):
    """A convolution, a norm, attention and two linear layers with one weight, of which one layer predicts points."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.points = nn.Linear(8, 4)
        self.first = nn.Linear(8, 8, bias=False)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.norm(self.conv(images).flatten(2).transpose(1, 2))
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.points(tokens), self.second(self.first(tokens)) * self.first.weight.sum()


def of_points(name: str) -> bool:
    return "points" in name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_layers_are_rounded_and_the_rest_stays_in_float32(tmp_path, dtype):
    net = Net().eval()
    images = torch.randn(2, 3, 6, 7)
    expected = net(images)
    program = torch.export.export(net, (images,))
    assert round_layers(program, dtype, of_points) == 5

    dtypes = {name: tensor.dtype for name, tensor in program.state_dict.items()}
    assert dtypes["conv.weight"] == dtypes["conv.bias"] == dtypes["second.bias"] == dtype
    tied = {dtypes[name] for name in ("first.weight", "second.weight") if name in dtypes}  # also summed, in float32
    assert tied | {dtypes[name] for name in ("norm.weight", "points.weight", "points.bias")} == {torch.float32}
    for node in program.graph.nodes:
        if node.op == "call_function" and not any(part in str(node.target) for part in ("conv2d", "linear", "to.dtype")):
            used = [source.meta["val"] for source in node.all_input_nodes]
            assert {value.dtype for value in used if isinstance(value, Tensor)} <= {torch.float32}, node

    torch.export.save(program, tmp_path / "net.pt2")
    found = torch.export.load(tmp_path / "net.pt2").module()(images)
    largest = [float((ours - theirs).abs().max()) for ours, theirs in zip(found, expected, strict=True)]
    # Values are of the order of 1; a layer rounds its input, weight and output, and there are five in a row.
    assert all(torch.finfo(dtype).eps / 100 < difference < 15 * torch.finfo(dtype).eps for difference in largest)
    assert {field.dtype for field in found} == {torch.float32}
