"""The search of the largest batch, with a simulated memory, and its trial steps on the CPU."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from flash_internimage.engine.auto_batch_size import (
    Trial,
    described,
    largest_batch,
    largest_images,
    trial_step,
)
from flash_internimage.engine.run import build_optimizer, step_options

CPU = torch.device("cpu")


def step_with_memory(available, fixed=2, per_image=3):
    """A step of a model that takes ``fixed`` and per image ``per_image`` bytes of a memory."""

    def step(size):
        if fixed + per_image * size > available:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fixed + per_image * size

    return step


@pytest.mark.parametrize("fitting", range(40))
def test_largest_batch_that_fits(fitting):
    size, trials = largest_batch(step_with_memory(2 + 3 * fitting + 2))
    assert size == fitting
    assert all((trial.memory is not None) == (trial.size <= fitting) for trial in trials)
    assert len({trial.size for trial in trials}) == len(trials) <= 2 * max(fitting, 1).bit_length() + 1


def test_search_ends_at_the_limit():
    assert largest_batch(step_with_memory(10**6), limit=6) == (6, [Trial(n, 2 + 3 * n) for n in (1, 2, 4, 5, 6)])


def test_other_errors_are_raised():
    def step(size):
        raise RuntimeError("another one")

    with pytest.raises(RuntimeError, match="another one"):
        largest_batch(step)


def test_trials_are_described():
    text = described([Trial(1, 3 * 2**30), Trial(2, int(5.94 * 2**30)), Trial(4, None)])
    assert text == "1: 3.0 GiB, 2: 5.9 GiB, 4: out of memory"


def sample(height, width, objects=0):
    return {"image": torch.zeros(3, height, width), "instances": [0] * objects}


def shapes(batch):
    return [(*one["image"].shape[1:], len(one["instances"])) for one in batch]


def test_batch_has_the_largest_padded_size_and_the_most_objects():
    # Wide images are padded to at most 8 x 13, tall ones to 12 x 9, which is more.
    samples = [sample(8, 9), sample(5, 13, 4), sample(12, 7), sample(11, 9, 1), sample(10, 8, 3)]
    assert shapes(largest_images(samples, 1)) == [(11, 9, 1)]
    assert shapes(largest_images(samples, 4)) == [(12, 7, 0), (11, 9, 1), (10, 8, 3), (10, 8, 3)]
    assert shapes(largest_images(samples[:2], 2)) == [(8, 9, 0), (5, 13, 4)]


@pytest.fixture
def cfg(repository):
    cfg = LazyConfig.load(str(repository / "tests/engine/tiny_config.py"))
    cfg.dataloader.train.total_batch_size = "auto"
    cfg.train.clip_grad.max_norm = 1.0
    cfg.train.accumulation_steps = 2
    return cfg


def build(cfg):
    """A model, and a trial step with some images."""
    model = instantiate(cfg.model)
    samples = [sample for _, sample in zip(range(3), images(cfg), strict=False)]
    return model, trial_step(model, samples, build_optimizer(cfg, model), step_options(cfg, CPU), CPU)


def images(cfg):
    loader = cfg.dataloader.train.copy()
    loader.total_batch_size = 1
    return (batch[0] for batch in instantiate(loader))


def test_trial_trains_and_leaves_no_trace(cfg):
    model, step = build(cfg)
    seen = []
    model.body[0].weight.register_hook(lambda gradient: seen.append(gradient.abs().sum().item()))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {name: value for name, value in vars(model).items() if not name.startswith("_")}
    assert step(4) > 0
    assert len(seen) == 4  # two steps, the first of which allocates the optimizer's state, of two parts each
    assert all(seen)
    assert step(2) > 0
    assert len(seen) == 6
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {name: value for name, value in vars(model).items() if not name.startswith("_")} == attributes


def test_trial_without_memory_leaves_no_trace(cfg, monkeypatch):
    model, step = build(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    forward = model.forward

    def limited(batch):
        losses = forward(batch)
        if len(batch) > 2:  # of two parts
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses

    monkeypatch.setattr(model, "forward", limited)
    assert largest_batch(step)[0] == 4  # two parts of two images
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture
def simulated(monkeypatch):
    """A GPU with a simulated memory, on which the trials run on the CPU."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20)
    fractions = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda part, device: fractions.append(part))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: torch.random.fork_rng.__wrapped__([]))
    return fractions
