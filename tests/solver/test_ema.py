import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from flash_internimage.solver import build_ema, ema_momentum
from flash_internimage.solver.ema import ema_of_run
from tests.reference import Reference


def test_average_follows_the_published_formula_from_the_first_iteration(reference: Reference):
    recipe = reference.recipes["cascade_flash_intern_image_l_fpn_3x_coco"]["ema"]
    assert (recipe["interval"], recipe["skip_buffers"]) == (1, False)
    momentum, warmup_iters = recipe["momentum"], recipe["warmup_total_iter"]
    # The formulas below are those stored with the recipe.
    assert recipe["momentum_at_iteration"] == "(1 - momentum) * exp(-(1 + iteration) / 2000) + momentum"
    assert recipe["update"] == "ema = (1 - m) * ema + m * value"

    model = nn.Linear(3, 2).double()
    expected = model.weight.detach().clone()
    averaged = build_ema(model, momentum, warmup_iters)
    for iteration in range(5):
        nn.init.normal_(model.weight)
        averaged.update_parameters(model)
        m = (1 - momentum) * math.exp(-(1 + iteration) / 2000) + momentum
        expected = (1 - m) * expected + m * model.weight.detach()
        assert_close(averaged.module.weight, expected, rtol=1e-12, atol=0)


def test_running_statistics_are_averaged_and_integer_buffers_copied():
    model = nn.BatchNorm1d(4).double()
    averaged = build_ema(model, momentum=0.25, warmup_iters=0)
    model(5 + torch.randn(8, 4, dtype=torch.float64))
    averaged.update_parameters(model)
    assert_close(averaged.module.running_mean, 0.25 * model.running_mean)
    assert_close(averaged.module.running_var, 0.75 + 0.25 * model.running_var)
    assert averaged.module.num_batches_tracked == model.num_batches_tracked == 1


def test_average_is_a_copy_and_does_not_change_the_model():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    averaged = build_ema(model)
    nn.init.zeros_(averaged.module.weight)
    averaged.update_parameters(model)
    assert_close(model.weight, before, rtol=0, atol=0)


def test_restored_average_continues_like_an_uninterrupted_one():
    torch.manual_seed(3)
    model = nn.Linear(4, 4)
    without_break, first_half = build_ema(model), build_ema(model)
    values = torch.randn(6, 4, 4)
    for value in values[:3]:
        model.weight.data = value
        without_break.update_parameters(model)
        first_half.update_parameters(model)
    second_half = build_ema(nn.Linear(4, 4))
    second_half.load_state_dict(first_half.state_dict())
    for value in values[3:]:
        model.weight.data = value
        without_break.update_parameters(model)
        second_half.update_parameters(model)
    assert_close(second_half.state_dict(), without_break.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("iteration", "warmup_iters", "expected"),
    [
        pytest.param(0, 2000, 0.9999 * math.exp(-1 / 2000) + 1e-4, id="almost 1 in the first iteration"),
        pytest.param(1999, 2000, 0.9999 / math.e + 1e-4, id="1/e after the time constant"),
        pytest.param(10**6, 2000, 1e-4, id="the momentum after the warm-up"),
        pytest.param(0, 0, 1e-4, id="no warm-up"),
    ],
)
def test_momentum(iteration: int, warmup_iters: int, expected: float):
    assert ema_momentum(iteration, 1e-4, warmup_iters) == pytest.approx(expected, rel=1e-12)


def test_section_of_a_config_may_lack_values():
    model = nn.Linear(1, 1)
    assert ema_of_run({}, model, {}) is None
    averaged, expected = ema_of_run({"enabled": True, "momentum": 0.5}, model, {}), build_ema(model, 0.5)
    nn.init.normal_(model.weight)
    for average in (averaged, expected):
        average.update_parameters(model)
    assert torch.equal(averaged.module.weight, expected.module.weight)
