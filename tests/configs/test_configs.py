"""Every config loads, is short, is ASCII, can be saved and loaded again, and builds its model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from flash_internimage import model_zoo
from flash_internimage.checkpoint.published import to_detectron2
from flash_internimage.model_zoo.zoo import config_folder
from tests.configs.published import NAMES, REFERENCE

PATHS = sorted(path for path in config_folder().glob("*/*.py") if path.parent.name != "common")
SECTIONS = {"model", "dataloader", "optimizer", "lr_multiplier", "train", "data"}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_a_config_has_exactly_the_sections_that_a_run_reads(path):
    assert set(LazyConfig.load(str(path))) == SECTIONS


def test_a_config_is_short(path):
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) <= 40, "a config has only settings of its own model; shared settings belong in configs/common"


@pytest.mark.parametrize("path", sorted(config_folder().rglob("*.py")), ids=lambda path: str(path.relative_to(config_folder())))
def test_a_config_is_ascii(path):
    path.read_text(encoding="ascii")


def test_saving_and_loading_a_config_is_a_round_trip(path, tmp_path):
    cfg = LazyConfig.load(str(path))
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    saved = LazyConfig.load(str(tmp_path / "config.yaml"))
    LazyConfig.save(saved, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()
    with torch.device("meta"):
        model, again = instantiate(cfg.model), instantiate(saved.model)
    assert {name: t.shape for name, t in model.state_dict().items()} == {n: t.shape for n, t in again.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_published_model_has_the_published_tensors(name):
    manifest = json.loads(
        (REFERENCE / "manifests" / json.loads((REFERENCE / "manifests/index.json").read_text())[name]).read_text()
    )
    with torch.device("meta"):
        model = instantiate(model_zoo.get_config(name).model)
    ours = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    theirs = {key: entry["shape"] for key, entry in to_detectron2(manifest["tensors"]).items()}
    assert ours == theirs
    assert sum(p.numel() for p in model.parameters()) == manifest["parameters"]
