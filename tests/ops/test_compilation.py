"""Both operators in one model under torch.compile, torch.export, AOTInductor and vmap."""

import pytest
import torch
from torch import Tensor, nn

from flash_internimage.ops import dcnv4, ms_deform_attn


class ConvolveAndAttend(nn.Module):
    """DCNv4 on an (N, H, W, 8) feature map, then attention from queries to its output at given locations."""

    def forward(self, value: Tensor, offset_mask: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        features = torch.relu(dcnv4(value, offset_mask, 3, padding=1, groups=2))
        _, height, width, _ = features.shape
        return ms_deform_attn(features.flatten(1, 2).unflatten(2, (2, 4)), [(height, width)], locations, weights) + 1


def draw(batch: int = 2, height: int = 6, width: int = 7, queries: int = 5) -> tuple[Tensor, ...]:
    return (
        torch.rand(batch, height, width, 8),
        torch.randn(batch, height, width, 56),
        torch.rand(batch, queries, 2, 1, 3, 2),
        torch.rand(batch, queries, 2, 1, 3),
    )


def test_one_compiled_graph_serves_all_feature_map_sizes():
    model = ConvolveAndAttend()
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list) -> nn.Module:
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=count)
    for height, width, queries in [(6, 7, 5), (9, 4, 3), (12, 30, 8)]:
        inputs = draw(height=height, width=width, queries=queries)
        assert torch.equal(compiled(*inputs), model(*inputs))
    assert len(graphs) == 1


def test_exports_with_dynamic_height_and_width():
    height, width = torch.export.Dim("height", min=3, max=64), torch.export.Dim("width", min=3, max=64)
    spatial = {1: height, 2: width}
    exported = torch.export.export(ConvolveAndAttend(), draw(), dynamic_shapes=(spatial, spatial, None, None))
    inputs = draw(height=11, width=5)
    assert torch.equal(exported.module()(*inputs), ConvolveAndAttend()(*inputs))


@torch.no_grad()
@pytest.mark.slow  # compiles C++
def test_aot_inductor_package(tmp_path):
    batch = torch.export.Dim("batch", min=1, max=16)
    exported = torch.export.export(ConvolveAndAttend(), draw(), dynamic_shapes=({0: batch},) * 4)
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "model.pt2"))
    inputs = draw(batch=3)
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(*inputs), ConvolveAndAttend()(*inputs))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_equals_a_loop():
    inputs = [torch.stack(tensors) for tensors in zip(draw(), draw(), draw(), strict=True)]
    model = ConvolveAndAttend()
    mapped = torch.vmap(model)(*inputs)
    assert torch.equal(mapped, torch.stack([model(*each) for each in zip(*inputs, strict=True)]))
