from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig

from flash_internimage.modeling import FlashInternImage


@pytest.fixture
def config(repository: Path) -> DictConfig:
    return LazyConfig.load(str(repository / "configs/common/optim.py"))


def build(config: DictConfig) -> torch.optim.Optimizer:
    config.optimizer.params.model = FlashInternImage(channels=16, depths=(1, 1), groups=(1, 1), out_features=["res3"])
    return instantiate(config.optimizer)


def test_groups_have_the_learning_rate_and_weight_decay_of_the_optimizer(config: DictConfig):
    config.optimizer.lr = 2e-3
    config.optimizer.weight_decay = 0.3
    groups = build(config).param_groups
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(2e-3, 0.3), (2e-3, 0.0)}


def test_saving_and_loading_gives_the_same_groups(config: DictConfig, tmp_path: Path):
    config.optimizer.params.layer_decay = 0.5
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    before, after = build(config), build(LazyConfig.load(str(tmp_path / "config.yaml")))
    assert len(before.param_groups) == 6  # three layer ids, with and without weight decay
    for group, restored in zip(before.param_groups, after.param_groups, strict=True):
        assert {key: value for key, value in group.items() if key != "params"} == {
            key: value for key, value in restored.items() if key != "params"
        }
        assert [parameter.shape for parameter in group["params"]] == [parameter.shape for parameter in restored["params"]]
