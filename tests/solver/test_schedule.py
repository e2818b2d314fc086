"""The learning-rate schedule equals the formula of the published recipes."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.solver import LRMultiplier

from flash_internimage.solver.schedule import WarmupMultiStep, multi_step_multiplier

COCO_IMAGES = 117266


@pytest.fixture(scope="module")
def schedules(repository):
    return str(repository / "configs/common/schedule.py")


def published_rate(iteration, rate, schedule, iterations_per_epoch):
    """Learning rate of the reference data: linear warm-up, and steps at the end of the given epochs."""
    steps_done = sum(iteration >= epoch * iterations_per_epoch for epoch in schedule["lr_steps_epochs"])
    rate *= schedule["lr_gamma"] ** steps_done
    if iteration < schedule["warmup_iters"]:
        rate *= 1 - (1 - iteration / schedule["warmup_iters"]) * (1 - schedule["warmup_ratio"])
    return rate


RECIPES = json.loads((Path(__file__).parents[1] / "reference/recipes.json").read_text())


def schedule_name(recipe_name):
    return "lr_multiplier_dino_1x" if "dino" in recipe_name else f"lr_multiplier_{recipe_name[-7:-5]}"


@pytest.mark.parametrize("recipe_name", RECIPES)
def test_rate_equals_the_recipe_around_every_change(recipe_name, schedules):
    recipe = RECIPES[recipe_name]
    schedule, rate = recipe["schedule"], recipe["optimizer"]["base_lr"]
    per_epoch = -(-COCO_IMAGES // recipe["data"]["total_batch_stated"])
    max_iter = schedule["epochs"] * per_epoch
    config = LazyConfig.load(schedules, schedule_name(recipe_name))
    config.max_iter = max_iter
    scheduler = instantiate(config)
    changes = [0, schedule["warmup_iters"], max_iter, *(epoch * per_epoch for epoch in schedule["lr_steps_epochs"])]
    near = {i for change in changes for i in range(change - 3, change + 4) if 0 <= i < max_iter}
    for iteration in [*near, *range(0, max_iter, 997), *range(0, 600, 7)]:
        assert rate * scheduler(iteration / max_iter) == pytest.approx(
            published_rate(iteration, rate, schedule, per_epoch), rel=1e-14
        ), iteration


def test_runs_have_whole_epochs_of_coco(schedules):
    iterations = LazyConfig.load(schedules, "iterations")
    assert iterations(12, 16) == 12 * 7330
    assert iterations(36, 64) == 36 * 1833
    assert iterations(2, 4, images=10) == 6


def test_steps_of_a_long_run_are_exact_to_the_iteration():
    # detectron2's scheduler steps two iterations early here, because it has a tolerance of 1e-6 of the run.
    max_iter = 2_111_004
    scheduler = WarmupMultiStep(max_iter, epochs=36, steps=[27, 33])
    step = max_iter // 36 * 27
    assert [scheduler(i / max_iter) for i in (step - 1, step)] == [1, pytest.approx(0.1)]


def test_multiplier_by_hand():
    values = [multi_step_multiplier(i, [4, 6], 0.5, warmup_iters=2, warmup_ratio=0.5) for i in range(7)]
    assert values == [0.5, 0.75, 1, 1, 0.5, 0.5, 0.25]


def test_detectron2_sets_the_rate_of_the_current_iteration_also_after_a_resume():
    parameter = torch.nn.Parameter(torch.zeros(1))

    def rates(start, optimizer):
        scheduler = LRMultiplier(optimizer, WarmupMultiStep(10, 10, [5, 8], warmup_iters=3), 10, last_iter=start - 1)
        seen = []
        for _ in range(start, 10):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    optimizer = torch.optim.SGD([parameter], lr=2.0)
    whole = rates(0, optimizer)
    assert whole == [2 * multi_step_multiplier(i, [5, 8], 0.1, 3, 0.001) for i in range(10)]
    resumed = torch.optim.SGD([parameter], lr=2.0)
    resumed.load_state_dict(optimizer.state_dict())
    assert rates(6, resumed) == whole[6:]


def test_a_step_outside_the_run_is_refused():
    with pytest.raises(ValueError, match=r"steps=\[8, 13\]: expected numbers above 0 and up to epochs=12"):
        WarmupMultiStep(100, epochs=12, steps=[8, 13])


@pytest.mark.parametrize(
    ("warmup_iters", "warned"), [(499, False), (500, True), (900, True), (0, False)], ids=lambda value: str(value)
)
def test_warm_up_that_does_not_end_is_warned_about(caplog, warmup_iters, warned):
    schedule = WarmupMultiStep(500, epochs=1, steps=[], warmup_iters=warmup_iters)
    assert (schedule(499 / 500) == 1) is not warned
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    if warned:
        assert f"lr_multiplier.warmup_iters={warmup_iters} is not less than train.max_iter=500" in caplog.text
