import pytest
import torch
from torch import nn
from torch.testing import assert_close

from flash_internimage.backbones.flash_internimage import MLP, Block, FlashInternImageBase, layer_ids, stage_depths
from flash_internimage.layers import DCNv4, opaque

SMALL = {"channels": 16, "depths": (1, 2, 1, 1), "groups": (1, 2, 4, 8), "drop_path_rate": 0.0}
# All options of the larger sizes, and those that no published size uses.
LARGE = {
    **SMALL,
    "post_norm": True,
    "dw_kernel_size": 3,
    "dcn_output_bias": True,
    "mlp_fc2_bias": True,
    "center_feature_scale": True,
    "remove_center": True,
    "layer_scale": None,
    "kernel_size": 5,
}
BOTH = pytest.mark.parametrize("arguments", [SMALL, LARGE], ids=["pre-norm", "post-norm"])


def randomize(net: nn.Module, offset_std: float = 0.2) -> nn.Module:
    """Randomize the offset predictions: in a new network all offsets and modulation scalars are zero."""
    for module in net.modules():
        if isinstance(module, DCNv4):
            nn.init.normal_(module.offset_mask.weight, std=offset_std)
            nn.init.normal_(module.offset_mask.bias, std=0.2)
            if module.center_feature_scale:
                nn.init.normal_(module.center_feature_scale_proj_weight)
    return net


def total(features: dict[str, torch.Tensor]) -> torch.Tensor:
    return sum(feature.square().mean() for feature in features.values())


def gradients(net: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in net.named_parameters()}


@BOTH
@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 33), (1, 1), (50, 127)])
def test_feature_sizes_are_rounded_up(arguments: dict, height: int, width: int):
    net = FlashInternImageBase(**arguments).eval()
    features = net(torch.randn(2, 3, height, width))
    assert {name: tuple(feature.shape) for name, feature in features.items()} == {
        f"res{index + 2}": (2, 16 * 2**index, -(-height // (4 * 2**index)), -(-width // (4 * 2**index))) for index in range(4)
    }


def test_features_are_channels_last():
    features = FlashInternImageBase(**SMALL).eval()(torch.randn(1, 3, 64, 96))
    assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in features.values())


@pytest.mark.parametrize("with_gradient", [True, False])
def test_empty_batch(with_gradient: bool):
    with torch.set_grad_enabled(with_gradient):
        features = FlashInternImageBase(**SMALL).eval()(torch.zeros(0, 3, 64, 64))
    assert features["res5"].shape == (0, 128, 2, 2)


def test_out_features_selects_features_without_changing_them():
    full = randomize(FlashInternImageBase(**SMALL)).eval()
    some = FlashInternImageBase(**SMALL, out_features=["res2", "res4"]).eval()
    missing, unexpected = some.load_state_dict(full.state_dict(), strict=False)
    assert missing == []
    assert {name.split(".")[1] for name in unexpected} == {"2", "3"}  # the downsampling of level 2, and level 3
    image = torch.randn(1, 3, 64, 64)
    expected, features = full(image), some(image)
    assert list(features) == ["res2", "res4"]
    assert some.size_divisibility == 16
    for name, feature in features.items():
        assert_close(feature, expected[name], rtol=0, atol=0)


@BOTH
def test_every_parameter_gets_a_nonzero_gradient(arguments: dict):
    net = randomize(FlashInternImageBase(**arguments))
    total(net(torch.randn(2, 3, 64, 64))).backward()
    assert [name for name, gradient in gradients(net).items() if gradient is None or not gradient.any()] == []


@BOTH
def test_every_parameter_of_a_new_network_gets_a_gradient(arguments: dict):
    # DistributedDataParallel needs a gradient for every parameter, even if it is zero.
    net = FlashInternImageBase(**arguments)
    total(net(torch.randn(1, 3, 32, 32))).backward()
    assert [name for name, gradient in gradients(net).items() if gradient is None] == []


@BOTH
def test_gradient_checkpointing_changes_no_result(arguments: dict):
    nets = [
        randomize(FlashInternImageBase(**{**arguments, "drop_path_rate": 0.5}, with_cp=with_cp)) for with_cp in (False, True)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    image = torch.randn(4, 3, 32, 32)
    losses = []
    for net in nets:
        torch.manual_seed(1)  # both drop the same branches, also in the recomputation
        losses.append(total(net(image)))
        losses[-1].backward()
    assert_close(losses[0], losses[1], rtol=0, atol=0)
    for name, gradient in gradients(nets[0]).items():
        assert_close(gradient, nets[1].get_parameter(name).grad, msg=lambda text, name=name: f"{name}: {text}")


@BOTH
def test_evaluation_in_chunks_equals_evaluation_at_once(arguments: dict, monkeypatch: pytest.MonkeyPatch):
    net = randomize(FlashInternImageBase(**arguments)).double().eval()
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    whole = net(image)
    monkeypatch.setattr(opaque, "CHUNK_SIZE", 100)  # not a divisor of the 768 positions of the first stage
    sizes = []
    mlp = net.levels[0].blocks[0].mlp
    forward = mlp.forward
    mlp.forward = lambda x: sizes.append(x.shape[1]) or forward(x)  # a hook would get whole feature maps
    with torch.no_grad():
        chunked = net(image)
    assert sizes == [100] * 7 + [68]
    for name, feature in whole.items():
        assert_close(chunked[name], feature, rtol=1e-12, atol=1e-12)


def test_gradient_checkpointing_saves_fewer_tensors():
    def saved_elements(with_cp: bool) -> int:
        counts = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: counts.append(x.numel()) or x, lambda x: x)
        with hooks:
            FlashInternImageBase(**SMALL, with_cp=with_cp)(torch.randn(1, 3, 64, 64))
        return sum(counts)

    assert saved_elements(True) < 0.5 * saved_elements(False)


def test_stochastic_depth_rates_increase_linearly_and_apply_only_in_training():
    net = randomize(FlashInternImageBase(**{**SMALL, "drop_path_rate": 0.4}))
    rates = [block.drop_path.p for stage in net.levels for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    image = torch.randn(2, 3, 32, 32)
    first, second = net(image), net(image)
    assert not torch.equal(first["res5"], second["res5"])
    net.eval()
    assert_close(net(image), net(image), rtol=0, atol=0)


def test_stochastic_depth_drops_a_branch_per_sample():
    block = FlashInternImageBase(**{**SMALL, "drop_path_rate": 0.5}).levels[3].blocks[0]
    randomize(block)
    x = torch.randn(64, 2, 2, 128)
    nn.init.zeros_(block.gamma2)  # disables the second branch
    branch = block.eval()(x) - x
    added = block.train()(x) - x
    factors = (added / branch).flatten(1).median(dim=1, keepdim=True).values
    assert_close(added.flatten(1), factors * branch.flatten(1), rtol=0, atol=1e-5)
    # A kept branch is scaled by 2, the reciprocal of its probability of being kept.
    assert set(factors.round(decimals=3).flatten().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("freeze_at", "trained"),
    [
        (0, {"patch_embed", "0", "1", "2", "3"}),
        (1, {"0", "1", "2", "3"}),
        (2, {"0.downsample", "1", "2", "3"}),
        (3, {"1.downsample", "2", "3"}),
        (5, set()),
    ],
)
def test_freeze_at(freeze_at: int, trained: set[str]):
    net = FlashInternImageBase(**SMALL, freeze_at=freeze_at)
    with_gradient = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    expected = {
        name for name, _ in net.named_parameters() if any(name.startswith((f"{part}.", f"levels.{part}.")) for part in trained)
    }
    assert with_gradient == expected
    assert with_gradient or not trained


def test_frozen_stages_stay_deterministic_in_training():
    net = randomize(FlashInternImageBase(**{**SMALL, "drop_path_rate": 0.5}, freeze_at=3)).train()
    image = torch.randn(2, 3, 32, 32)
    assert_close(net(image)["res3"], net(image)["res3"], rtol=0, atol=0)
    assert not net.levels[1].blocks[1].training
    assert net.levels[2].blocks[0].training


def test_initialization():
    net = FlashInternImageBase(**{**LARGE, "channels": 64, "layer_scale": 0.5})
    block = net.levels[2].blocks[0]
    assert not any(parameter.any() for parameter in block.dcn.offset_mask.parameters())
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not block.mlp.fc1.bias.any()
    # Xavier-uniform: within +-sqrt(6 / (fan_in + fan_out)).
    bound = (6 / (256 + 256)) ** 0.5
    assert block.dcn.value_proj.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert_close(block.gamma1, torch.full((256,), 0.5))


@BOTH
def test_bfloat16_is_close_to_float32(arguments: dict):
    # Features of white noise vary between neighboring pixels: large offsets would amplify rounding errors from block to block.
    net = randomize(FlashInternImageBase(**arguments), offset_std=0.05).eval()
    image = torch.randn(1, 3, 64, 64)
    exact = net(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(image)
    low = net.bfloat16()(image.bfloat16())
    for name, feature in exact.items():
        # Rounding errors of 2^-9 that accumulate over about twenty layers.
        assert_close(mixed[name].float(), feature, rtol=0, atol=0.1 * feature.abs().max().item())
        assert_close(low[name].float(), feature, rtol=0, atol=0.1 * feature.abs().max().item())
        assert low[name].dtype == torch.bfloat16


def test_trains_under_autocast_with_checkpointing():
    net = randomize(FlashInternImageBase(**{**SMALL, "drop_path_rate": 0.2}, with_cp=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(net(torch.randn(1, 3, 32, 32)))
    loss.backward()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients(net).values())


def test_compiles_to_one_graph():
    net = randomize(FlashInternImageBase(**{**SMALL, "depths": (1, 1), "groups": (1, 2)}, out_features=["res3"])).eval()
    # aot_eager skips code generation, which is slow and irrelevant for graph breaks.
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    image = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        assert_close(compiled(image)["res3"], net(image)["res3"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": (1, 1), "groups": (1,)}, r"one entry per stage, got \[1, 1\] and \[1\]"),
        (
            {"out_features": ["res6"]},
            r"out_features must be a non-empty subset of \['res2', 'res3', 'res4', 'res5'\], got \['res6'\]",
        ),
        ({"out_features": []}, r"got \[\]"),
        ({"freeze_at": 6}, "freeze_at must be between 0 and 5, got 6"),
        ({"kernel_size": 2}, "kernel_size must be odd"),
        ({"channels": 6, "groups": (4, 4, 4, 4)}, "6 channels in 4 groups"),
    ],
)
def test_contradictory_arguments(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        FlashInternImageBase(**{**SMALL, **arguments})


def test_image_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"expected images \(N, 3, H, W\), got shape \(1, 4, 8, 8\)"):
        FlashInternImageBase(**SMALL)(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone.bottom_up."])
@BOTH
def test_layer_ids_increase_with_depth(arguments: dict, prefix: str):
    names = [prefix + name for name, _ in FlashInternImageBase(**arguments).named_parameters()]
    assert stage_depths(names) == [1, 2, 1, 1]
    ids = layer_ids([*names, "roi_heads.box_head.fc1.weight"])
    expected = {
        "patch_embed.conv1.weight": 0,
        "levels.0.blocks.0.norm1.0.weight": 1,
        "levels.0.downsample.conv.weight": 2,
        "levels.1.blocks.0.mlp.fc1.weight": 2,
        "levels.1.blocks.1.mlp.fc1.weight": 3,
        "levels.1.downsample.norm.1.bias": 4,
        "levels.2.blocks.0.dcn.offset_mask.weight": 4,
        "levels.3.blocks.0.mlp.fc2.weight": 5,
    }
    assert {name: ids[prefix + name] for name in expected} == expected
    assert ids["roi_heads.box_head.fc1.weight"] == 6
    if not arguments.get("post_norm"):
        assert (ids[f"{prefix}levels.0.norm.0.weight"], ids[f"{prefix}levels.3.norm.0.bias"]) == (2, 5)


@torch.no_grad()
@pytest.mark.parametrize("post_norm", [False, True], ids=["pre-norm", "post-norm"])
def test_hooks_keep_what_they_see_in_inference(post_norm):
    options = {"mlp_ratio": 4.0, "drop_path_rate": 0.0, "layer_scale": 1.0, "offset_scale": 1.0, "kernel_size": 3}
    options |= {"dw_kernel_size": None, "center_feature_scale": False, "remove_center": False}
    block = Block(16, 1, post_norm=post_norm, dcn_output_bias=True, mlp_fc2_bias=True, **options).eval()
    x, seen = torch.randn(1, 70, 80, 16), {}
    expected = block(x)
    for name in ("fc1", "act"):
        getattr(block.mlp, name).register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output}))
    block.mlp.register_forward_pre_hook(lambda _, inputs: seen.update(mlp=inputs[0]))
    before = {}
    block.mlp.fc1.register_forward_hook(lambda _, inputs, output: before.update(fc1=output.clone(), mlp=inputs[0].clone()))
    assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    assert set(seen) == {"fc1", "act", "mlp"}
    for name, values in before.items():
        assert_close(seen[name], values, rtol=0, atol=0)


@torch.no_grad()
def test_another_activation_is_used_in_inference():
    mlp = MLP(4, 8, fc2_bias=True)
    mlp.act = nn.ReLU()
    x = torch.randn(3, 4)
    assert_close(mlp(x), mlp.fc2(mlp.fc1(x).relu()), rtol=0, atol=0)
