"""Scaling of a recipe to another batch size."""

import logging

import pytest
from detectron2.config import LazyConfig, instantiate

from flash_internimage.engine.batch_size import BatchSize, fit_to_batch_size, require_same_batch_size
from flash_internimage.errors import UserError


@pytest.fixture
def cfg(repository):
    cfg = LazyConfig.load(str(repository / "tests/engine/tiny_config.py"))
    cfg.train.update(reference_batch_size=16, max_iter=1000, eval_period=100, scale_to_batch_size=True)
    cfg.train.checkpointer.period = 100
    cfg.lr_multiplier.warmup_iters = 50
    cfg.optimizer.lr = 0.1
    cfg.dataloader.train.total_batch_size = 16
    return cfg


def schedule(cfg):
    return (
        cfg.optimizer.lr,
        cfg.train.max_iter,
        cfg.train.eval_period,
        cfg.train.checkpointer.period,
        cfg.lr_multiplier.warmup_iters,
    )


def test_reference_batch_size_changes_nothing(cfg, caplog):
    fit_to_batch_size(cfg, 4)
    assert schedule(cfg) == (0.1, 1000, 100, 100, 50)
    assert caplog.text == ""


def test_learning_rate_and_schedule_are_scaled(cfg, caplog):
    cfg.dataloader.train.total_batch_size = 4
    with caplog.at_level(logging.INFO, logger="flash_internimage"):
        fit_to_batch_size(cfg, 1)
    assert schedule(cfg) == (0.025, 4000, 400, 400, 200)
    assert instantiate(cfg.lr_multiplier).milestones == [3000]
    assert (
        "Scaled from 16 to 4 images per step: learning rate 0.025, 4000 iterations, warm-up 200, "
        "instead of learning rate 0.1, 1000 iterations, warm-up 50"
    ) in caplog.text


def test_saved_config_is_not_scaled_twice(cfg):
    cfg.dataloader.train.total_batch_size = 32
    for _ in range(2):
        fit_to_batch_size(cfg, 1)
    assert schedule(cfg) == (0.2, 500, 50, 50, 25)


def test_without_scaling_there_is_a_warning(cfg, caplog):
    cfg.train.scale_to_batch_size = False
    cfg.dataloader.train.total_batch_size = 4
    fit_to_batch_size(cfg, 1)
    assert schedule(cfg) == (0.1, 1000, 100, 100, 50)
    assert "recipe is for 16 images per step, this run has 4; train.scale_to_batch_size=true" in caplog.text


def test_relative_schedule_is_not_scaled(cfg):
    del cfg.lr_multiplier.warmup_iters
    cfg.dataloader.train.total_batch_size = 4
    fit_to_batch_size(cfg, 1)
    assert (cfg.optimizer.lr, cfg.train.max_iter) == (0.025, 4000)


def test_eval_period_of_zero_is_kept(cfg):
    cfg.train.eval_period = 0
    cfg.dataloader.train.total_batch_size = 4
    fit_to_batch_size(cfg, 1)
    assert cfg.train.eval_period == 0


@pytest.mark.parametrize(
    ("size", "world_size", "parts", "message"),
    [
        (16, 3, 1, "total_batch_size=16: expected a positive multiple of the 3 processes"),
        (0, 1, 1, "total_batch_size=0: expected 1 or more$"),
        (1, 1, 2, r"accumulation_steps=2: expected 1 to 1, .* \(1 image on 1 process\)"),
        (16, 4, 5, "accumulation_steps=5: expected 1 to 4, the number of images per process and step"),
        (16, 4, 0, "accumulation_steps=0: expected 1 to 4"),
    ],
)
def test_indivisible_batch_is_rejected(cfg, size, world_size, parts, message):
    cfg.dataloader.train.total_batch_size = size
    cfg.train.accumulation_steps = parts
    with pytest.raises(ValueError, match=message):
        fit_to_batch_size(cfg, world_size)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (BatchSize(2, 16), "3 images per step, and learning rate and schedule for 3; this run is configured with 2, and"),
        (BatchSize(3, 16), "learning rate and schedule for 3; .* and learning rate and schedule for 16; continue with"),
    ],
)
def test_another_batch_size_is_not_resumed(now, message):
    state = BatchSize(3, 3).state_dict()
    require_same_batch_size(state, BatchSize(3, 3), "a.pth")
    require_same_batch_size(None, now, "a.pth")
    with pytest.raises(UserError, match=f"a.pth was trained with .*{message}"):
        require_same_batch_size(state, now, "a.pth")
