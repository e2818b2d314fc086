"""LoRA adapters: what is trained, what a checkpoint holds, and that merged weights are W + alpha / rank * B A."""

import copy

import pytest
import torch
from torch import nn

from flash_internimage import model_zoo
from flash_internimage.errors import UserError
from flash_internimage.layers import Linear
from flash_internimage.solver.ema import build_ema
from flash_internimage.solver.freezing import freeze
from flash_internimage.solver.lora import Adapters, LoRAOptions, add_adapters, require_same_adapters

OPTIONS = LoRAOptions(rank=2, alpha=6.0, dropout=0.0)


@pytest.fixture(scope="module", autouse=True)
def _peft():
    pytest.importorskip("peft")


class Backbone(nn.Module):
    """Linear layers of both kinds, one without a bias, and attention, whose projection cannot be adapted."""

    def __init__(self):
        super().__init__()
        self.fc = nn.ModuleList([Linear(6, 8, bias=False), nn.Linear(8, 6)])
        self.norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        x = self.norm(self.fc[1](self.fc[0](x).relu()))
        return x + self.attention(x, x, x, need_weights=False)[0]


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": Backbone(), "lateral": nn.Linear(6, 6)})
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.backbone["lateral"](self.backbone["bottom_up"](x)))


LAYERS = ["backbone.bottom_up.fc.0", "backbone.bottom_up.fc.1"]


def train(model, steps=3, average=None):
    """Take steps with gradients that are far from zero, so that B is not."""
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(2, 5, 6)).square().sum().backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
    return optimizer


def by_hand(plain, state, scale):
    """The state dict of the detector with the adapters merged, in float64."""
    expected = {name: tensor.double() for name, tensor in plain.items()}
    for layer in LAYERS:
        b, a = state["model"][f"{layer}.lora_B"].double(), state["model"][f"{layer}.lora_A"].double()
        expected[f"{layer}.weight"] = plain[f"{layer}.weight"].double() + scale * b @ a
    return expected


def test_only_adapters_and_the_rest_of_the_detector_are_trained(caplog):
    model = Detector()
    with caplog.at_level("INFO", logger="flash_internimage"):
        frozen = add_adapters(model, OPTIONS)
    assert frozen == [name for name in Detector().state_dict() if name.startswith("backbone.bottom_up.")]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {f"{layer}.lora_{kind}.default.weight" for layer in LAYERS for kind in "AB"}
    rest = {f"{layer}.{kind}" for layer in ("backbone.lateral", "head") for kind in ("weight", "bias")}
    assert trained == adapters | rest
    # A has rank * in elements and B out * rank: 2 * (6 + 8 + 8 + 6); the rest has 6 * 6 + 6 + 6 * 3 + 3, and the frozen
    # backbone 48 + 48 + 6 in the linear layers, 12 in the norm, 3 * (36 + 6) + 36 + 6 in the attention.
    assert (
        "LoRA adapters of rank 2 and alpha 6 on 2 linear layers of backbone.bottom_up, whose own parameters are frozen; "
        "trained: 56 parameters of adapters and 63 of the other parts, beside 282 frozen ones"
    ) in caplog.text


def test_state_dict_is_that_of_the_detector_with_merged_weights():
    model = Detector()
    plain, x = copy.deepcopy(model.state_dict()), torch.randn(2, 5, 6)
    before = model(x)
    add_adapters(model, OPTIONS)
    torch.testing.assert_close(model(x), before)  # B is zero
    assert all(torch.equal(tensor, plain[name]) for name, tensor in model.state_dict().items())

    train(model)
    merged = model.state_dict()
    assert list(merged) == list(plain)
    state = Adapters(OPTIONS, model).state_dict()
    others = {name: merged[name] for name in plain if not name.startswith("backbone.bottom_up.")}
    expected = by_hand({**plain, **others}, state, scale=3)
    for name, tensor in merged.items():
        # Rounded once from float64.
        assert torch.equal(tensor, expected[name].float()), name
    assert not torch.equal(merged[f"{LAYERS[0]}.weight"], plain[f"{LAYERS[0]}.weight"])

    ordinary = Detector()
    ordinary.load_state_dict(merged)
    # Both compute the same sums of up to 8 products, twice, in float32 with another order: some 1e-7 of values of order 1.
    torch.testing.assert_close(ordinary(x), model(x), rtol=1e-5, atol=1e-5)


def test_adapters_are_restored_exactly_with_those_of_the_average():
    def resumed(state, tensors):
        model = Detector()
        model.load_state_dict(tensors["model"])
        add_adapters(model, OPTIONS)
        average = build_ema(model, momentum=0.3, warmup_iters=0)
        average.load_state_dict(tensors["average"])
        Adapters(OPTIONS, model, average.module).load_state_dict(state)
        return model, average

    model = Detector()
    add_adapters(model, OPTIONS)
    average = build_ema(model, momentum=0.3, warmup_iters=0)
    train(model, average=average)
    tensors = copy.deepcopy({"model": model.state_dict(), "average": average.state_dict()})
    state = copy.deepcopy(Adapters(OPTIONS, model, average.module).state_dict())
    again, average_again = resumed(state, tensors)
    for one, other in ((model, again), (average, average_again)):
        named = dict(other.named_parameters())
        assert [name for name, parameter in one.named_parameters() if not torch.equal(parameter, named[name])] == []
        # The average of frozen weights is exact.
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    # A checkpoint has the frozen weights once.
    assert {key for key in state["model"] if key not in state["average"]} == {f"{layer}.weight" for layer in LAYERS}
    assert all("lora_" in key for key in state["average"])
    train(again, average=average_again)
    train(model, average=average)
    assert all(torch.equal(tensor, average_again.state_dict()[name]) for name, tensor in average.state_dict().items())
    assert all(
        torch.equal(Adapters(OPTIONS, again).state_dict()["model"][f"{layer}.weight"], state["model"][f"{layer}.weight"])
        for layer in LAYERS
    )


def test_an_ordinary_state_dict_can_be_loaded():
    model, other, x = Detector(), Detector(), torch.randn(2, 5, 6)
    add_adapters(model, OPTIONS)
    train(model)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(x), other(x))
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({name: tensor for name, tensor in other.state_dict().items() if LAYERS[0] not in name})


def test_frozen_layers_get_no_adapters():
    model = Detector()
    freeze(model, "backbone.bottom_up.fc.0")
    add_adapters(model, OPTIONS)
    assert type(model.backbone["bottom_up"].fc[0]) is Linear
    assert not model.backbone["bottom_up"].fc[0].weight.requires_grad
    everything = Detector()
    freeze(everything, "backbone")
    with pytest.raises(
        UserError, match="backbone.bottom_up has no linear layer to adapt that train.freeze and freeze_at leave"
    ):
        add_adapters(everything, OPTIONS)


@pytest.mark.parametrize(
    ("name", "parts", "kept"),
    [
        ("mask_rcnn_flash_internimage_nano", ("backbone.bottom_up.",), None),
        # The query selection and the class and box heads are trained as a whole.
        ("dino_flash_internimage_nano", ("backbone.", "transformer.encoder.", "transformer.decoder."), "self_attn.out_proj"),
    ],
)
def test_all_linear_layers_of_the_parts_of_a_detector_are_adapted(name, parts, kept):
    from detectron2.config import instantiate

    model = instantiate(model_zoo.get_config(name).model)
    before = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    add_adapters(model, OPTIONS)
    adapted = {key.removesuffix(".lora_A") for key in Adapters(OPTIONS, model).state_dict()["model"] if key.endswith("lora_A")}
    expected = {path for path in before if path.startswith(parts) and not (kept and path.endswith(kept))}
    assert adapted == expected
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (not key.startswith(parts) or ".lora_" in key), key


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rank": 0}, "train.lora.rank=0: expected an integer of 1 or more"),
        ({"rank": 2.5}, "train.lora.rank=2.5: expected an integer"),
        ({"rank": True}, "train.lora.rank=True: expected an integer"),
        ({"rank": "8x"}, "train.lora.rank=8x: expected an integer"),
        ({"rank": 8, "alpha": 0}, "train.lora.alpha=0: expected a number above 0"),
        ({"rank": 8, "alpha": "a"}, "train.lora.alpha=a: expected a number"),
        ({"rank": 8, "dropout": 1.0}, "train.lora.dropout=1.0: expected a probability"),
    ],
)
def test_an_invalid_option_is_one_sentence(section, message):
    with pytest.raises(UserError, match=message):
        LoRAOptions.from_config({"alpha": None, "dropout": 0.0, **section})


def test_options_of_a_config():
    assert LoRAOptions.from_config(None) is None
    assert LoRAOptions.from_config({"rank": None, "alpha": None, "dropout": 0.0}) is None
    assert LoRAOptions.from_config({"rank": 8, "alpha": None, "dropout": 0.1}) == LoRAOptions(8, 8.0, 0.1)
    assert LoRAOptions.from_config({"rank": 8}) == LoRAOptions(8, 8.0, 0.0)
    assert LoRAOptions.from_config({"alpha": 2}) is None


def test_another_model_or_other_adapters_are_not_resumed():
    model = Detector()
    add_adapters(model, OPTIONS)
    state = Adapters(OPTIONS, model).state_dict()
    require_same_adapters(state, OPTIONS)
    require_same_adapters(None, None)
    with pytest.raises(UserError, match="saved with LoRA adapters of rank 2 and alpha 6, this run is configured without LoRA"):
        require_same_adapters(state, None)
    with pytest.raises(UserError, match="saved without LoRA adapters, this run is configured with .* rank 2 and alpha 6;"):
        require_same_adapters(None, OPTIONS)
    with pytest.raises(UserError, match="this run is configured with LoRA adapters of rank 2 and alpha 2;"):
        require_same_adapters(state, LoRAOptions(2, 2.0, 0.0))
    frozen = Detector()
    freeze(frozen, "backbone.bottom_up.fc.0")
    add_adapters(frozen, OPTIONS)
    with pytest.raises(UserError, match="has LoRA adapters on other layers; continue with the same model"):
        Adapters(OPTIONS, frozen).load_state_dict(state)
