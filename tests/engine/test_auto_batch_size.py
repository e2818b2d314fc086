"""The search of the largest batch, with a simulated memory, and its trial steps on the CPU."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils import comm

from flash_internimage.data import build_train_loader
from flash_internimage.data.stream import orientations
from flash_internimage.engine import auto_batch_size
from flash_internimage.engine.auto_batch_size import (
    Trial,
    _limit,
    _number_of_images,
    described,
    find_total_batch_size,
    largest_batch,
    largest_images,
    trial_step,
)
from flash_internimage.engine.run import build_optimizer, step_options
from flash_internimage.errors import UserError
from tests.engine.tiny import TinyDetector, TinyTrainLoader

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
    size, trials = largest_batch(step_with_memory(2 + 3 * fitting + 2), 64)
    assert size == fitting
    assert all((trial.memory is not None) == (trial.size <= fitting) for trial in trials)
    assert len({trial.size for trial in trials}) == len(trials) <= 2 * max(fitting, 1).bit_length() + 1


def test_search_ends_at_the_limit():
    assert largest_batch(step_with_memory(10**6), limit=6) == (6, [Trial(n, 2 + 3 * n) for n in (1, 2, 4, 5, 6)])


def test_other_errors_are_raised():
    def step(size):
        raise RuntimeError("another one")

    with pytest.raises(RuntimeError, match="another one"):
        largest_batch(step, 8)


def test_trials_are_described():
    text = described([Trial(1, 3 * 2**30), Trial(2, int(5.94 * 2**30)), Trial(4, None)])
    assert text == "1: 3.0 GiB, 2: 5.9 GiB, 4: out of memory"


def sample(height, width, objects=0, landscape=None):
    """A mapped image, whose annotated orientation is its own unless given."""
    annotated = width > height if landscape is None else landscape
    size = {"height": 3, "width": 4} if annotated else {"height": 4, "width": 3}
    return {"image": torch.zeros(3, height, width), "instances": [0] * objects, **size}


def shapes(batch):
    return [(*one["image"].shape[1:], len(one["instances"])) for one in batch]


def test_batch_has_the_largest_padded_size_and_the_most_objects():
    # Wide images are padded to at most 8 x 13, tall ones to 12 x 9, which is more.
    samples = [sample(8, 9), sample(5, 13, 4), sample(12, 7), sample(11, 9, 1), sample(10, 8, 3)]
    assert shapes(largest_images(samples, 1)) == [(11, 9, 1)]
    assert shapes(largest_images(samples, 4)) == [(12, 7, 0), (11, 9, 1), (10, 8, 3), (10, 8, 3)]
    assert shapes(largest_images(samples[:2], 2)) == [(8, 9, 0), (5, 13, 4)]


def test_tall_crop_of_a_landscape_image_is_in_a_batch_with_wide_ones():
    samples = [sample(8, 13), sample(12, 7, landscape=True), sample(12, 8)]
    assert shapes(largest_images(samples, 2)) == [(12, 7, 0), (8, 13, 0)]  # padded to 12 x 13
    # Alone, it is not padded.
    assert shapes(largest_images(samples, 1)) == [(8, 13, 0)]


def test_images_are_grouped_as_in_training():
    samples = [sample(9, 9), sample(8, 13), sample(12, 7), sample(12, 7, landscape=True)]
    for group in (0, 1):
        grouped = [one for one, orientation in zip(samples, orientations(samples), strict=True) if orientation == group]
        tall, wide = max(one["image"].shape[1] for one in grouped), max(one["image"].shape[2] for one in grouped)
        found = largest_images(grouped, 2)
        assert (found[0]["image"].shape[1], found[1]["image"].shape[2]) == (tall, wide)
        assert set(orientations(largest_images([*grouped, *grouped], 3)).tolist()) == {group}
    assert len(set(orientations(largest_images(samples, 4)).tolist())) == 1


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
    assert len(seen) == 2  # parts
    assert all(seen)
    assert step(2) > 0
    assert len(seen) == 4
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
    assert largest_batch(step, 8)[0] == 4  # two parts of two images
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class SkippedSteps(torch.amp.GradScaler):
    """Finds an overflow in each step, as gradient scaling of float16 does in its first ones."""

    def step(self, optimizer):
        return None


def test_optimizer_has_its_state_although_gradient_scaling_skips_steps(cfg, monkeypatch):
    monkeypatch.setattr(torch.amp, "GradScaler", SkippedSteps)
    model = instantiate(cfg.model)
    optimizer = build_optimizer(cfg, model)
    samples = [sample for _, sample in zip(range(3), images(cfg), strict=False)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trial_step(model, samples, optimizer, step_options(cfg, CPU), CPU)(2)
    assert {name for state in optimizer.state.values() for name in state} == {"step", "exp_avg", "exp_avg_sq"}
    assert len(optimizer.state) == len(list(model.parameters()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_nothing_but_the_memory_of_a_trial_is_checked(cfg, monkeypatch):
    model, step = build(cfg)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda batch: {name: loss / 0 for name, loss in forward(batch).items()})
    assert step(2) > 0  # infinite losses and gradients

    def refuses(batch):
        raise FloatingPointError("Loss became infinite or NaN!")

    monkeypatch.setattr(model, "forward", refuses)
    with pytest.raises(UserError, match="total_batch_size=auto: in a trial with 2 images: Loss became infinite or NaN"):
        step(2)


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        pytest.param(1, [1], id="one image"),
        pytest.param(2, [1, 1], id="one image per part"),
        pytest.param(5, [2, 2], id="the largest of unequal parts"),
        pytest.param(12, [4, 4], id="no third part"),
    ],
)
def test_largest_part_is_tried_beside_the_gradients_of_another_one(cfg, monkeypatch, size, parts):
    cfg.train.accumulation_steps = 3
    model, step = build(cfg)
    forward, seen = model.forward, []

    def counting(batch):
        seen.append((len(batch), model.box_head.weight.grad is not None))
        return forward(batch)

    monkeypatch.setattr(model, "forward", counting)
    step(size)
    assert seen == [(count, i > 0) for i, count in enumerate(parts)]


class SimulatedMemory:
    """A GPU, 20 bytes of which PyTorch keeps, with a model that takes some per image."""

    def __init__(self, monkeypatch, per_image, free=60, total=100):
        self.fractions = []
        monkeypatch.setattr(auto_batch_size, "require_gpu", lambda device: None)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20)
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda part, device: self.fractions.append(part))
        forward = TinyDetector.forward

        def limited(model, batch):
            if per_image * len(batch) > round(total * self.fractions[-1]):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(model, batch)

        monkeypatch.setattr(TinyDetector, "forward", limited)


def find(cfg, model=None):
    cfg.train.accumulation_steps = 1
    model = instantiate(cfg.model) if model is None else model
    return find_total_batch_size(cfg, model, lambda: build_optimizer(cfg, model), step_options(cfg, CPU), CPU)


def test_nine_tenths_of_the_available_memory_are_used(cfg, monkeypatch, caplog):
    memory = SimulatedMemory(monkeypatch, per_image=7)
    model = instantiate(cfg.model)
    generator = torch.get_rng_state()
    with caplog.at_level("INFO", logger="flash_internimage"):
        assert find(cfg, model) == 10  # 0.9 * (60 + 20) = 72 bytes, with 7 per image
    assert memory.fractions == [pytest.approx(0.72), 1.0]
    assert torch.equal(torch.get_rng_state(), generator)
    assert "GiB, 16: out of memory, 12: out of memory, 10: " in caplog.text
    assert caplog.messages[-1] == "dataloader.train.total_batch_size=auto: 10 images"


def test_memory_limit_is_removed_after_an_error(cfg, monkeypatch):
    memory = SimulatedMemory(monkeypatch, per_image=7)

    def damaged(model, batch):
        raise UserError("image a.jpg is damaged")

    monkeypatch.setattr(TinyDetector, "forward", damaged)
    with pytest.raises(UserError, match=r"a\.jpg is damaged"):
        find(cfg)
    assert memory.fractions[-1] == 1.0


def test_smallest_of_several_gpus_decides(cfg, monkeypatch, caplog):
    model = instantiate(cfg.model)
    gradients = 4 * sum(parameter.numel() for parameter in model.parameters())  # bytes
    memory = SimulatedMemory(monkeypatch, per_image=(0.8 * gradients + 18) / 5.5, free=2 * gradients, total=4 * gradients)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    gathered = []
    monkeypatch.setattr(comm, "all_gather", lambda size: gathered.append(size) or [size, 3])
    with caplog.at_level("INFO", logger="flash_internimage"):
        assert find(cfg, model) == 6
    # Distributed training needs the gradients twice: 0.9 * (2 + 0) - 1 = 0.8, beside 0.9 of PyTorch's 20 bytes.
    assert memory.fractions == [pytest.approx((0.8 * gradients + 18) / (4 * gradients)), 1.0]
    assert gathered == [5]
    assert caplog.messages[-1] == "dataloader.train.total_batch_size=auto: 3 images on each of 2 GPUs, 6 in all"
    monkeypatch.setattr(comm, "all_gather", lambda size: [size, 0])
    with pytest.raises(UserError, match="not even one image fits"):
        find(cfg)


def test_batch_is_limited_by_the_recipe(cfg, monkeypatch, caplog):
    SimulatedMemory(monkeypatch, per_image=0)
    with caplog.at_level("INFO", logger="flash_internimage"):
        assert find(cfg) == 32
    assert caplog.messages[-1].endswith("auto: 32 images; more are not tried: 8 times the recipe's 4 images per step")


def test_batch_is_limited_by_the_dataset():
    assert _limit(16, 60, 1) == (60, "the dataset has 60 images")
    assert _limit(16, 60, 8) == (7, "the dataset has 60 images")
    assert _limit(16, 118_287, 8) == (16, "8 times the recipe's 16 images per step")
    assert _limit(16, 3, 8)[0] == 1
    assert _limit(16, None, 1)[0] == 128


def test_images_of_a_training_loader_are_counted():
    dataset = [{"width": 2, "height": 1, "annotations": []}] * 5
    assert _number_of_images(build_train_loader(dataset, dict, 2, 0, 0)) == 5
    assert _number_of_images(TinyTrainLoader(2)) is None
