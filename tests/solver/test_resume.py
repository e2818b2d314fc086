"""The state of a resumed optimizer: settings of the config, moments of the checkpoint."""

import copy

import pytest
import torch
from torch import nn

from flash_internimage.errors import UserError
from flash_internimage.solver.parameter_groups import Setting, group_parameters
from flash_internimage.solver.resume import OptimizerLayout, resumed_state


def build(lr=0.1, weight_decay=0.01, body=0.5, optimizer=torch.optim.AdamW, frozen=(), **options):
    """A model of two layers, and its optimizer: the body has its own learning rate, biases have no weight decay."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name not in frozen
    settings = {
        name: Setting(body if name.startswith("0") else 1.0, 0.0 if name.endswith("bias") else weight_decay)
        for name, _ in model.named_parameters()
    }
    return model, optimizer(group_parameters(model, settings, lr), lr=lr, **options)


def step(model, optimizer, count=3):
    for i in range(count):
        optimizer.zero_grad()
        model(torch.full((2, 3), 1.0 + i)).square().sum().backward()
        optimizer.step()


def trained(**settings):
    """A model after some steps, the state of its optimizer under a schedule at one tenth of the rate, and its layout."""
    model, optimizer = build(**settings)
    for group in optimizer.param_groups:
        group["initial_lr"], group["lr"] = group["lr"], group["lr"] / 10
    step(model, optimizer)
    return copy.deepcopy(optimizer.state_dict()), OptimizerLayout.of(optimizer, model)


@pytest.fixture(params=[True, False], ids=["with names", "of an earlier version"])
def saved(request):
    state, layout = trained()
    return state, layout if request.param else None


def test_unchanged_settings_change_nothing(saved):
    model, optimizer = build()
    state, changes = resumed_state(*saved, optimizer, model)
    assert changes == ""
    assert state["param_groups"] == saved[0]["param_groups"]
    assert list(state["state"]) == list(saved[0]["state"])
    for i in state["state"]:
        assert state["state"][i] is saved[0]["state"][i]


def test_changed_settings_are_applied_by_group_and_reported(saved):
    model, optimizer = build(lr=0.2, weight_decay=0.03, betas=[0.8, 0.99])
    state, changes = resumed_state(*saved, optimizer, model)
    assert changes == (
        "lr 0.05..0.1 -> 0.1..0.2, weight_decay 0.01 -> 0.03 (2 of 4 parameters), betas (0.9, 0.999) -> (0.8, 0.99)"
    )
    optimizer.load_state_dict(state)
    found = [(g["initial_lr"], g["lr"], g["weight_decay"], tuple(g["betas"])) for g in optimizer.param_groups]
    betas = (0.8, 0.99)
    assert found == [(0.1, 0.1, 0.03, betas), (0.1, 0.1, 0.0, betas), (0.2, 0.2, 0.03, betas), (0.2, 0.2, 0.0, betas)]


def test_momentum_of_another_optimizer_class():
    state, layout = trained(optimizer=torch.optim.SGD, momentum=0.9)
    model, optimizer = build(optimizer=torch.optim.SGD, momentum=0.5)
    state, changes = resumed_state(state, layout, optimizer, model)
    assert changes == "momentum 0.9 -> 0.5"
    assert {group["momentum"] for group in state["param_groups"]} == {0.5}


def test_moments_follow_their_parameter_into_other_groups():
    state, layout = trained()
    model, optimizer = build(weight_decay=0.0)  # the groups with and without weight decay become one
    assert len(optimizer.param_groups) == 2
    fitted, changes = resumed_state(state, layout, optimizer, model)
    assert changes == "weight_decay 0.01 -> 0.0 (2 of 4 parameters)"
    optimizer.load_state_dict(fitted)
    names = list(layout.parameters[0] + layout.parameters[1] + layout.parameters[2] + layout.parameters[3])
    for name, parameter in model.named_parameters():
        expected = state["state"][names.index(name)]["exp_avg"]
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], expected, rtol=0, atol=0)
    step(model, optimizer, 1)


def test_layout_survives_a_checkpoint(tmp_path):
    _, layout = trained()
    torch.save(layout.state_dict(), tmp_path / "layout.pth")
    assert OptimizerLayout.from_state_dict(torch.load(tmp_path / "layout.pth", weights_only=True)) == layout
    assert OptimizerLayout.from_state_dict(None) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"frozen": ["0.weight", "0.bias"]},
            r"its optimizer has 0.weight and 1 more that the config freezes, as with another freeze_at",
            id="frozen",
        ),
        pytest.param({"optimizer": torch.optim.SGD}, "the state of AdamW, but the config's optimizer is SGD", id="other class"),
        pytest.param({"amsgrad": True}, r"another amsgrad than the config's \(amsgrad False -> True\)", id="algorithm"),
    ],
)
def test_settings_that_cannot_be_applied(settings, message):
    model, optimizer = build(**settings)
    with pytest.raises(UserError, match=message):
        resumed_state(*trained(), optimizer, model)


def test_parameters_that_were_frozen():
    model, optimizer = build()
    with pytest.raises(UserError, match="its optimizer lacks 1.bias that the config trains, as with another freeze_at"):
        resumed_state(*trained(frozen=["1.bias"]), optimizer, model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"frozen": ["1.bias"]}, "4 parameters in 4 groups, the config has 3 in 3", id="frozen"),
        pytest.param({"body": 1.0}, "4 parameters in 4 groups, the config has 4 in 2", id="other groups"),
        pytest.param({"optimizer": torch.optim.SGD}, "of another optimizer than the config's SGD", id="other class"),
    ],
)
def test_settings_that_cannot_be_applied_without_names(settings, message):
    model, optimizer = build(**settings)
    with pytest.raises(UserError, match=message):
        resumed_state(trained()[0], None, optimizer, model)


def test_parameters_of_other_shapes_without_names():
    state, _ = trained()
    state["state"][0]["exp_avg"] = torch.zeros(5)
    model, optimizer = build()
    with pytest.raises(UserError, match="other parameters or groups than the config's"):
        resumed_state(state, None, optimizer, model)
