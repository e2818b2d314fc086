"""The largest batch that fits into the memory of a GPU, for ``dataloader.train.total_batch_size=auto``."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn

from flash_internimage.errors import UserError
from flash_internimage.plurals import counted
from flash_internimage.process_means import each_process_alone

from .memory import peak_memory, reset_peak_memory
from .seeding import preserved_generators
from .trainer import Batch, StepOptions, Trainer
from .unchanged import attributes_kept, tensors_kept

AUTO = "auto"
"""Value of ``dataloader.train.total_batch_size`` that has the size found."""

SETTING = f"dataloader.train.total_batch_size={AUTO}"

_MOST = 8  # times the batch size of the recipe, beyond which its learning rate does not scale
_SAMPLES = 64  # training images, the largest of which are tried
_USED = 0.9  # part of the available memory that a trial may use: the rest is for fragmentation and for images with more objects

logger = logging.getLogger(__name__)


class Trial(NamedTuple):
    """A batch size that has been tried."""

    size: int
    memory: int | None
    """Peak memory in bytes; None if it did not fit."""


def largest_batch(step: Callable[[int], int], limit: int) -> tuple[int, list[Trial]]:
    """Find the largest batch size with which a step succeeds: by doubling from 1, then by bisection.

    Args:
        step: runs a step with a batch size and returns its peak memory in bytes; raises ``torch.OutOfMemoryError`` for all
            sizes above some size.
        limit: largest size to try.

    Returns:
        The size, 0 if even 1 does not fit, and all trials in their order.
    """
    trials: list[Trial] = []

    def fits(size: int) -> bool:
        try:
            memory = step(size)
        except torch.OutOfMemoryError:
            trials.append(Trial(size, None))
            return False
        trials.append(Trial(size, memory))
        return True

    fitting, too_large = 0, 1
    while too_large <= limit and fits(too_large):
        fitting, too_large = too_large, 2 * too_large
    too_large = min(too_large, limit + 1)
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        if fits(middle):
            fitting = middle
        else:
            too_large = middle
    return fitting, trials


def largest_images(samples: Sequence[Mapping[str, Any]], size: int) -> list[dict[str, Any]]:
    """Make a batch of the samples that need the most memory, some of them several times.

    A batch is padded to its largest height and its largest width. As in training, its images have the same orientation by
    their annotated size, while the crop of a landscape image may be tall. So it has the tallest and the widest image of one
    orientation, and the one with the most objects.

    Args:
        samples: mapped dataset dicts, with ``image`` (3, H, W), ``instances``, and the annotated ``width`` and ``height``.
        size: number of images.
    """
    height, width = (lambda sample: sample["image"].shape[1]), (lambda sample: sample["image"].shape[2])
    if size == 1:
        return [dict(max(samples, key=lambda sample: height(sample) * width(sample)))]
    groups = [[sample for sample in samples if (sample["width"] > sample["height"]) == wide] for wide in (True, False)]
    group = max(groups, key=lambda group: max(map(height, group), default=0) * max(map(width, group), default=0))
    crowded = max(group, key=lambda sample: len(sample.get("instances", ())))
    return [dict(sample) for sample in [max(group, key=height), max(group, key=width), *[crowded] * (size - 2)]]


def require_gpu(device: torch.device) -> None:
    """Raise an exception unless the device is a GPU.

    Raises:
        UserError: it is a CPU.
    """
    if device.type != "cuda":
        raise UserError(
            f"{SETTING}: searches the largest batch that fits into the memory of a GPU, but this run is on the {device.type}; "
            "set a number of images, such as dataloader.train.total_batch_size=4"
        )


def find_total_batch_size(
    cfg: DictConfig,
    model: nn.Module,
    build_optimizer: Callable[[], torch.optim.Optimizer],
    options: StepOptions,
    device: torch.device,
) -> int:
    """Find the largest batch size with which a model trains on all GPUs: that of the smallest GPU, times their number.

    The trials are training steps with the largest of 64 images of the training data, after augmentation. They leave model,
    random generators and GPU memory as they were. A tenth of the available memory stays free. The batch has at most eight times
    as many images as the recipe's, to which a learning rate cannot be scaled without limit, and at most the training images.

    Args:
        cfg: a complete config, whose ``dataloader.train`` loads the images.
        model: the model, not compiled or wrapped for distributed training.
        build_optimizer: builds the optimizer of the model.
        options: options of a training step.
        device: a GPU.

    Raises:
        UserError: the device is no GPU, or not even one image fits.
    """
    require_gpu(device)
    loader = deepcopy(cfg.dataloader.train)
    loader.total_batch_size = comm.get_world_size()
    if "num_workers" in loader:
        loader.num_workers = 0
    with preserved_generators(device):
        batches = instantiate(loader)
        samples = [batch[0] for batch in itertools.islice(batches, _SAMPLES)]
        limit, reason = _limit(cfg.train.reference_batch_size, _number_of_images(batches), comm.get_world_size())
        # Distributed training has a second copy of the gradients, in buckets.
        buckets = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        with _memory_limited(device, buckets if comm.get_world_size() > 1 else 0):
            size, trials = largest_batch(trial_step(model, samples, build_optimizer(), options, device), limit)
    _free(device)
    logger.info("%s: images per GPU and peak memory: %s", SETTING, described(trials))
    sizes = comm.all_gather(size)
    if min(sizes) == 0:
        raise UserError(
            f"{SETTING}: not even one image fits into the memory of a GPU; set train.amp.enabled=true or "
            "model.backbone.bottom_up.with_cp=true, or train with smaller images"
        )
    total = min(sizes) * len(sizes)
    on_all = f" on each of {len(sizes)} GPUs, {total:,} in all" if len(sizes) > 1 else ""
    limited = f"; more are not tried: {reason}" if min(sizes) == limit else ""
    logger.info("%s: %s%s%s", SETTING, counted(min(sizes), "image"), on_all, limited)
    return total


def resumed_batch_size(state: Mapping[str, Any] | None, checkpoint: str) -> int:
    """Return the number of images per iteration of the run that a checkpoint belongs to.

    Args:
        state: of :class:`.batch_size.BatchSize` in the checkpoint; None if it has none.
        checkpoint: path of the checkpoint, for the message.

    Raises:
        UserError: the checkpoint does not contain its batch size.
    """
    if state is None:
        raise UserError(
            f"--resume: {checkpoint} does not contain its batch size; instead of {SETTING} give the number of images in the "
            "log, with train.scale_to_batch_size=true"
        )
    total: int = state["total"]
    logger.info("%s: %d, as before the resume", SETTING, total)
    return total


def _limit(reference: int, images: int | None, processes: int) -> tuple[int, str]:
    """Return the largest number of images per process to try, 1 or more, and its reason.

    Args:
        reference: images per step that the recipe is for.
        images: number of training images; None if it is unknown.
        processes: number of processes.
    """
    limits = [(_MOST * reference // processes, f"{_MOST} times the recipe's {counted(reference, 'image')} per step")]
    if images is not None:
        limits.append((images // processes, f"the dataset has {counted(images, 'image')}"))
    limit, reason = min(limits)
    return max(limit, 1), reason


def _number_of_images(loader: Any) -> int | None:
    """The number of images of a training loader, whose dataset is a stream of samples from a dataset; None if unknown."""
    dataset = getattr(getattr(loader, "dataset", None), "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None


def trial_step(
    model: nn.Module,
    samples: Sequence[Mapping[str, Any]],
    optimizer: torch.optim.Optimizer,
    options: StepOptions,
    device: torch.device,
) -> Callable[[int], int]:
    """Return a function that runs a training step with a number of images, and returns its peak memory in bytes.

    It leaves the model as it is. The optimizer gets a learning rate of 0 and keeps its state, which is part of the memory.
    With gradient accumulation it runs two micro-batches of the largest size: the second one needs the most memory, beside the
    gradients of the first, and each further one as much.
    """
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    def step(size: int) -> int:
        _free(device)
        reset_peak_memory(device)
        parts = min(options.accumulation_steps, size)
        part = largest_images(samples, math.ceil(size / parts))
        tried = min(parts, 2)
        batch: Batch = [dict(sample) for sample in part * tried]
        trainer = Trainer(model, [batch], optimizer, replace(options, accumulation_steps=tried), device)
        try:
            with tensors_kept(model), attributes_kept(model), each_process_alone(), EventStorage(0):
                if not optimizer.state:
                    _allocate_state(optimizer)
                trainer.try_step(batch)
        except UserError as error:
            raise UserError(f"{SETTING}: in a trial with {counted(size, 'image')}: {error}") from error
        finally:
            model.zero_grad(set_to_none=True)
        return peak_memory(device) or 0

    return step


def _allocate_state(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer allocate its state, by a step with gradients of zero.

    The first trials would not do that in float16, where gradient scaling skips steps whose gradients overflow.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def described(trials: Sequence[Trial]) -> str:
    """Return, for example, ``1: 3.2 GiB, 2: 5.9 GiB, 4: out of memory``."""
    memory = (f"{trial.memory / 2**30:.1f} GiB" if trial.memory is not None else "out of memory" for trial in trials)
    return ", ".join(f"{trial.size}: {text}" for trial, text in zip(trials, memory, strict=True))


@contextlib.contextmanager
def _memory_limited(device: torch.device, reserve: int) -> Iterator[None]:
    """Let PyTorch raise an out-of-memory error before the memory of a GPU is full.

    Args:
        reserve: bytes to keep free in addition.
    """
    free, total = torch.cuda.mem_get_info(device)
    available = free + torch.cuda.memory_reserved(device)
    torch.cuda.set_per_process_memory_fraction(max(0.0, (_USED * available - reserve) / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _free(device: torch.device) -> None:
    """Return memory that is not used to the GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
