"""The parts of a detector: which modules they have, and that their costs add up to the whole."""

import torch
from torch import nn

from flash_internimage.analysis.parts import part_of_module, sum_by_part
from tests.analysis.timed import Part


def test_modules_belong_to_the_parts_of_the_detector_family(pyramid_model):
    assert part_of_module(pyramid_model) == {
        "backbone": "neck",
        "backbone.bottom_up": "backbone",
        "proposal_generator": "proposals",
        "roi_heads": "heads",
    }
    transformer = Part(0, encoder=Part(), query_selection=Part(), decoder=Part())
    transformer.level_embeds = nn.Parameter(torch.zeros(1))
    assert part_of_module(Part(0, backbone=Part(), neck=Part(), transformer=transformer)) == {
        "backbone": "backbone",
        "neck": "neck",
        "transformer.encoder": "proposals",
        "transformer.query_selection": "proposals",
        "transformer.decoder": "heads",
    }


def test_what_is_inside_another_part_counts_once(pyramid_model):
    costs = {"": 100, "backbone": 60, "backbone.bottom_up": 40, "proposal_generator": 5, "roi_heads": 25}
    expected = {"": 100, "backbone": 40, "neck": 20, "proposals": 5, "heads": 25, "rest": 10}
    assert sum_by_part(pyramid_model, costs) == expected
