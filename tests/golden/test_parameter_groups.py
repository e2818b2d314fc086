"""Optimizers of the published configs: learning rate and weight decay of every parameter of the model."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from flash_internimage.checkpoint.published import to_published
from tests.configs.published import NAMES
from tests.reference import Reference


@pytest.mark.parametrize("recipe", NAMES)
def test_learning_rate_and_weight_decay_of_every_parameter(recipe: str, repository: Path, reference: Reference):
    config = LazyConfig.load(str(repository / f"configs/coco/{recipe}.py"))
    with torch.device("meta"):  # only names and shapes matter
        model = instantiate(config.model)
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    settings = {
        parameter: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for parameter in group["params"]
    }
    # Buffers have published names too, but no optimizer settings.
    tensors = to_published({name: settings.get(value) for name, value in model.state_dict(keep_vars=True).items()})

    stored = reference.param_groups(recipe)
    expected = {
        name: (stored["base_lr"] * group["lr_mult"], group["weight_decay"])
        for group in stored["groups"]
        for name in group["names"]
    }
    assert {name for name, setting in tensors.items() if setting is not None} == set(expected)
    # The stored multipliers are rounded to 15 decimals.
    off = {name: (tensors[name], value) for name, value in expected.items() if tensors[name] != pytest.approx(value, rel=1e-9)}
    assert off == {}
    assert (list(optimizer.defaults["betas"]), optimizer.defaults["eps"]) == (stored["betas"], stored["eps"])
