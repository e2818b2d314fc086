"""Losses on the validation data, computed without training on it."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator
from copy import deepcopy

import torch
from detectron2.config import LazyCall, instantiate
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from flash_internimage.data import TrainingMapper
from flash_internimage.data.annotated import annotated_dataset_dicts
from flash_internimage.process_means import each_process_alone

from .evaluation import Batch, UntilStop
from .seeding import preserved_generators, seed_everything
from .stopping import StoppedBySignal, StopRequest, agreed_signal
from .unchanged import attributes_kept

logger = logging.getLogger(__name__)

TASK = "validation"
"""Group of these losses among the metrics: ``validation/total_loss``."""


def validation_loader(cfg: DictConfig) -> Collection[Batch]:
    """Build a loader of the test images of a config, resized as in evaluation, with their annotations.

    A config whose test loader has no mapper brings its own samples, which must have what the losses are computed from.

    Raises:
        UserError: the dataset has no annotations, or an object has no mask but the model learns masks.
    """
    node = deepcopy(cfg.dataloader.test)
    if "mapper" in node:
        with_masks = bool(OmegaConf.select(cfg, "dataloader.train.mapper.with_masks", default=False))
        augmentations = cfg.dataloader.test.mapper.augmentations
        node.mapper = LazyCall(TrainingMapper)(augmentations=augmentations, with_masks=with_masks, allow_empty=True)
        node.dataset = LazyCall(annotated_dataset_dicts)(names=cfg.dataloader.test.dataset.names, with_masks=with_masks)
    return instantiate(node)


def validation_losses(
    model: nn.Module, images: Collection[Batch], seed: int, device: torch.device, stop: StopRequest, iteration: int
) -> dict[str, float]:
    """Compute the losses of a model on validation images: for each, the mean over all images of all processes.

    Normalization uses its running statistics, and dropout and stochastic depth are disabled, as in evaluation. Weights, running
    statistics, attributes of the model, random generators and the metrics of the run do not change. The random numbers that a
    loss draws, such as which proposals it samples, depend on the seed and the image only, so that evaluations can be compared.

    Args:
        model: a detector that returns a dict of losses in training mode.
        images: batches of :func:`validation_loader` for this process.
        seed: seed of the random numbers.
        device: device of the model.
        stop: request to stop, which is agreed upon by all processes after their images.
        iteration: last iteration of the training.

    Returns:
        The means by name, with ``total_loss``, their sum; empty except on the main process.

    Raises:
        StoppedBySignal: a process was asked to stop.
    """
    sums: dict[str, float] = defaultdict(float)
    count = 0
    with torch.no_grad(), _losses_mode(model), preserved_generators(device), EventStorage(iteration), each_process_alone():
        for number, batch in enumerate(UntilStop(images, stop)):
            seed_everything(seed, 0, int(batch[0].get("position", number)))
            with attributes_kept(model):
                losses = model(batch)
            for name, loss in losses.items():
                sums[name] += float(loss) * len(batch)
            count += len(batch)
    everyone: list[tuple[dict[str, float], int, int]] = comm.all_gather((dict(sums), count, stop.signal))
    number = agreed_signal(signal for *_, signal in everyone)
    if number:
        raise StoppedBySignal(number, iteration)
    if not comm.is_main_process():
        return {}
    total = sum(count_there for _, count_there, _ in everyone)
    names = dict.fromkeys(name for sums_there, *_ in everyone for name in sums_there)
    means = {name: sum(sums_there.get(name, 0.0) for sums_there, *_ in everyone) / total for name in names}
    means = {"total_loss": sum(means.values()), **means}
    logger.info("Validation losses: %s", ", ".join(f"{name} {value:.4g}" for name, value in means.items()))
    return means


@contextlib.contextmanager
def _losses_mode(model: nn.Module) -> Iterator[None]:
    """Let a model compute losses inside the context, with the layers whose results differ in training as in evaluation."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    for module in model.modules():
        if isinstance(module, _NormBase | _DropoutNd | StochasticDepth):
            module.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
