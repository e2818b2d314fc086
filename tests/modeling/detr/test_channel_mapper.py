"""The neck: sizes of the levels, inputs of each level, and errors."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from flash_internimage.modeling.detr.channel_mapper import ChannelMapper


@pytest.fixture
def features() -> dict[str, torch.Tensor]:
    return {"res3": torch.rand(2, 8, 9, 11), "res4": torch.rand(2, 16, 5, 6), "res5": torch.rand(2, 32, 3, 3)}


def test_levels_beyond_the_stages_halve_the_last_one(features):
    neck = ChannelMapper(["res3", "res4", "res5"], [8, 16, 32], out_channels=16, num_levels=5, norm_groups=4)
    levels = neck(features)
    assert [tuple(level.shape) for level in levels] == [(2, 16, *size) for size in [(9, 11), (5, 6), (3, 3), (2, 2), (1, 1)]]

    extra = neck.extra_convs[0]
    convolved = F.conv2d(features["res5"], extra.weight, stride=2, padding=1)
    assert_close(levels[3], F.group_norm(convolved, 4, extra.norm.weight, extra.norm.bias))
    extra = neck.extra_convs[1]
    convolved = F.conv2d(levels[3], extra.weight, stride=2, padding=1)
    assert_close(levels[4], F.group_norm(convolved, 4, extra.norm.weight, extra.norm.bias))


def test_a_stage_is_mapped_by_its_own_convolution(features):
    neck = ChannelMapper(["res4"], [16], out_channels=8, num_levels=1, norm_groups=2)
    convolved = torch.einsum("nchw,dc->ndhw", features["res4"], neck.convs[0].weight[:, :, 0, 0])
    assert_close(neck(features)[0], F.group_norm(convolved, 2))
    assert neck.convs[0].bias is None


@pytest.mark.parametrize(
    "arguments", [{"in_channels": [8]}, {"num_levels": 1}], ids=["channels of one of two stages", "more stages than levels"]
)
def test_inconsistent_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"ChannelMapper: expected .* got in_features=\['res3', 'res4'\]"):
        ChannelMapper(**{"in_features": ["res3", "res4"], "in_channels": [8, 16], **arguments})
