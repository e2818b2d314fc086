"""Config overrides: values that are set, and error messages."""

import pytest
import torch
from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf

from flash_internimage.engine.overrides import apply_overrides, convert


def layer(channels, kernel_size=3, bias=True, norm=None, scale: float = 1.0, tile: int | None = None):
    """A callable for a config section to instantiate."""
    return torch.nn.Identity()


@pytest.fixture
def cfg():
    return DictConfig(
        {
            "model": L(layer)(channels=8, kernel_size="${..train.size}", tile=64),
            "train": {
                "max_iter": 100,
                "size": 5,
                "output_dir": "./output",
                "checkpoint": None,
                "amp": {"enabled": False, "dtype": "bf16"},
                "rate": 0.5,
                "steps": [8, 11],
                "stages": [{"depth": 2}, {"depth": 4}],
            },
        },
        flags={"allow_objects": True},
    )


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        pytest.param("train.max_iter=20", "train.max_iter", 20, id="integer"),
        pytest.param("train.max_iter=2e3", "train.max_iter", 2000, id="integer written as 2e3"),
        pytest.param("train.rate=1", "train.rate", 1.0, id="integer for a float"),
        pytest.param("train.amp.enabled=true", "train.amp.enabled", True, id="boolean"),
        pytest.param("train.output_dir=2024", "train.output_dir", "2024", id="digits for a string"),
        pytest.param("train.output_dir=/my data/a (1), b", "train.output_dir", "/my data/a (1), b", id="path with punctuation"),
        pytest.param("train.checkpoint=hf://a/b/c.pth", "train.checkpoint", "hf://a/b/c.pth", id="string for null"),
        pytest.param("train.output_dir=null", "train.output_dir", None, id="null for a string"),
        pytest.param("model.tile=null", "model.tile", None, id="null for an argument that is null by default"),
        pytest.param("train.steps=[1,2,3]", "train.steps", [1, 2, 3], id="list of another length"),
        pytest.param("train.steps=[0.5]", "train.steps", [0.5], id="floats in a list of integers"),
        pytest.param("train.stages.1.depth=3", "train.stages.1.depth", 3, id="element of a list"),
        pytest.param("train.amp={enabled:true}", "train.amp", {"enabled": True, "dtype": "bf16"}, id="part of a section"),
        pytest.param("train.max_iter=${train.size}", "train.max_iter", 5, id="reference to another key"),
        pytest.param("model.kernel_size=7", "model.kernel_size", 7, id="value in place of a reference"),
        pytest.param("model.bias=false", "model.bias", False, id="argument that the config does not set"),
        pytest.param("model.norm=LN", "model.norm", "LN", id="argument without a default value"),
    ],
)
def test_override_is_set(cfg, override, key, value):
    apply_overrides(cfg, [override])
    got = OmegaConf.select(cfg, key)
    assert (OmegaConf.to_container(got) if OmegaConf.is_config(got) else got) == value
    assert type(OmegaConf.select(cfg, key)) is type(value) or OmegaConf.is_config(got)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_itr=3", r"unknown config key 'train.max_itr': did you mean train.max_iter\?"),
        ("trian.max_iter=3", r"did you mean train.max_iter\?"),
        ("max_iter=3", r"did you mean train.max_iter\?"),
        ("model.chanels=3", r"did you mean model.channels\?"),
        ("model.bais=true", r"did you mean model.bias\?"),
        ("train.amp.zzz=3", r"train.amp has enabled, dtype"),
        ("train.amp={enabld:true}", r"did you mean train.amp.enabled\?"),
        ("train.rate.x=3", r"'train.rate' is not a section but 0.5 \(a number\)"),
        ("train.stages.2.depth=3", r"'train.stages' is a list of 2, with keys 0 to 1"),
        ("train.max_iter=abc", r"'train.max_iter': expected a value like 100 \(an integer\), got 'abc' \(a string\)"),
        ("train.max_iter=1.5", r"expected a value like 100 \(an integer\), got 1.5 \(a number\)"),
        ("train.max_iter=true", r"expected a value like 100 \(an integer\), got true \(a boolean"),
        ("train.max_iter=null", r"expected a value like 100 \(an integer\), got null"),
        ("model.channels=null", r"'model.channels': expected a value like 8 \(an integer\), got null"),
        ("model={tile:null,channels:null}", r"'model.channels': expected a value like 8 \(an integer\), got null"),
        ("train.max_iter=[1]", r"got the list \[1\]"),
        ("train.amp.enabled=1", r"expected a value like false \(a boolean, true or false\), got 1"),
        ("train.amp.dtype=[bf16]", r"expected a value like 'bf16' \(a string\), got the list"),
        ("train.amp={enabled:3}", r"'train.amp.enabled': expected a value like false"),
        ("train.steps=8", r"expected a value like the list \[8, 11\], got 8"),
        ("train.steps=[a]", r"expected a value like the list \[8, 11\], got the list \['a'\]"),
        ("train=3", r"expected a value like the section with keys max_iter"),
        ("model.scale=x", r"expected a value like 1.0 \(a number\)"),
        ("train.max_iter", r"expected key=value"),
        ("--train.max_iter=3", r"expected key=value"),
        ("+train.new=3", r"expected key=value"),
    ],
)
def test_invalid_override_is_rejected(cfg, override, message):
    before = OmegaConf.to_container(cfg, resolve=False)
    with pytest.raises(ValueError, match=message):
        apply_overrides(cfg, [override])
    assert OmegaConf.to_container(cfg, resolve=False) == before


def test_overrides_apply_in_order(cfg):
    apply_overrides(cfg, ["train.size=1", "train.size=2"])
    assert cfg.model.kernel_size == 2


def test_callable_can_only_be_replaced_by_a_name():
    assert convert(layer, "torch.nn.Identity", "torch.nn.Identity") == "torch.nn.Identity"
    cfg = DictConfig({"norm": layer}, flags={"allow_objects": True})
    with pytest.raises(ValueError, match=r"an object\), got 3"):
        apply_overrides(cfg, ["norm=3"])
