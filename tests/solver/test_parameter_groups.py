"""Each rule of the parameter groups; ``tests/golden/test_parameter_groups.py`` tests the published configs."""

import pytest
import torch
from torch import nn

from flash_internimage.backbones.flash_internimage import FLASH_INTERNIMAGE, layer_ids
from flash_internimage.families import ParameterRules
from flash_internimage.projects.dino.family import DINO_FAMILY
from flash_internimage.solver import get_layer_decay_groups, get_named_groups
from flash_internimage.solver.parameter_groups import is_decayed, layer_decay_multipliers, named_multiplier

RULES = FLASH_INTERNIMAGE.parameters | DINO_FAMILY.parameters
NO_RULES = ParameterRules()


def settings_of(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter, by name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = get_layer_decay_groups(model, 1.0, 0.1, layer_ids)
    assert settings_of(model, groups) == {"1.weight": (1.0, 0.1), "1.bias": (1.0, 0.0)}
    assert len(groups) == 2


def test_shared_parameters_are_updated_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    for groups in (get_layer_decay_groups(model, 1.0, 0.1, layer_ids), get_named_groups(model, 1.0, 0.1, {})):
        torch.optim.AdamW(groups)  # refuses a parameter that appears twice
        assert sum(len(group["params"]) for group in groups) == 3


def test_learning_rates_decrease_towards_the_image():
    ids = {"stem": 0, "first": 1, "second": 2, "head": 3}
    assert layer_decay_multipliers(ids, 0.5, 1.0, NO_RULES) == {"stem": 0.125, "first": 0.25, "second": 0.5, "head": 1.0}


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("backbone.levels.0.blocks.0.dcn.offset_mask.weight", 0.01),
        ("backbone.levels.0.blocks.0.dcn.offset_mask.bias", 0.01),
        ("backbone.levels.0.blocks.0.dcn.offset_mask_dw.weight", 1.0),
        ("transformer.encoder.layers.0.self_attn.sampling_offsets.bias", 0.01),
        ("transformer.encoder.layers.0.self_attn.attention_weights.bias", 1.0),
    ],
)
def test_offset_layers_have_an_additional_factor(name: str, factor: float):
    assert layer_decay_multipliers({name: 4, "head": 4}, 0.9, 0.01, RULES)[name] == factor


def test_level_embedding_has_the_learning_rate_of_the_stem():
    ids = {"backbone.patch_embed.conv1.weight": 0, "transformer.level_embeds": 5}
    multipliers = layer_decay_multipliers(ids, 0.5, 1.0, RULES)
    assert multipliers["transformer.level_embeds"] == multipliers["backbone.patch_embed.conv1.weight"] == 0.5**5


@pytest.mark.parametrize(
    ("name", "dimensions", "decayed"),
    [
        ("mlp.fc1.weight", 2, True),
        ("mlp.fc1.bias", 1, False),
        ("gamma1", 1, False),
        ("norm.weight", 2, False),
        ("sampling_offsets.weight", 2, False),
        ("relative_position_table", 2, False),
        ("query_embed.weight", 2, True),
    ],
)
def test_weight_decay_by_name_and_dimensions(name: str, dimensions: int, decayed: bool):
    assert is_decayed(name, dimensions, RULES) == decayed


def test_longest_matching_part_of_a_name_applies():
    multipliers = {"backbone": 0.1, "backbone.norm": 0.5}
    names = ("backbone.conv", "backbone.norm.bias", "head")
    assert [named_multiplier(name, multipliers) for name in names] == [0.1, 0.5, 1.0]


def test_multiplier_that_matches_no_parameter_is_refused():
    with pytest.raises(ValueError, match="no parameter has 'bakbone' in its name"):
        get_named_groups(nn.Linear(2, 2), 1.0, 0.1, {"bakbone": 0.1})
