"""Families: a new one is known to every generic package, and those packages import no detector."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from flash_internimage import families
from flash_internimage.analysis.parts import part_of_module
from flash_internimage.checkpoint.matching import match
from flash_internimage.checkpoint.published import to_detectron2, to_published
from flash_internimage.compilation import compile_parts
from flash_internimage.families import BackboneFamily, DetectorFamily, ParameterRules, register
from flash_internimage.family_lookup import detector_family, parameter_rules
from flash_internimage.solver import get_layer_decay_groups

NEW = DetectorFamily(
    title="New",
    signature="new_head.classes.weight",
    class_layers=("new_head.classes.*",),
    published_names=(("head.cls.*", "new_head.classes.*"), ("body.*", "backbone.*")),
    parameters=ParameterRules(undecayed=("table",), at_stem_rate=("table",)),
    parts={"new_head": "heads"},
    optional=("masks",),
    compiled=("new_head",),
)


@pytest.fixture
def new_family() -> Iterator[DetectorFamily]:
    yield register(NEW)
    del families.REGISTERED[NEW.title]


class NewDetector(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.new_head = nn.Module()
        self.new_head.classes = nn.Linear(2, num_classes)
        self.table = nn.Parameter(torch.zeros(2, 2))


def test_all_families_are_found_where_only_checkpoints_are_imported():
    program = """
import flash_internimage.checkpoint
from flash_internimage.family_lookup import backbone_families, detector_families
print([family.title for family in (*detector_families(), *backbone_families())])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert sorted(ast.literal_eval(done.stdout)) == [
        "Cascade Mask R-CNN",
        "DINO",
        "FlashInternImage",
        "Mask R-CNN",
        "RetinaNet",
    ]


def test_a_new_family_reinitializes_its_class_layers(new_family):
    result = match(NewDetector(5).state_dict(), NewDetector(2).state_dict())
    assert result.reinitialized == ("new_head.classes.weight", "new_head.classes.bias")
    assert result.wrong_shape == ()


def test_a_model_without_a_family_has_no_class_layers():
    result = match(NewDetector(5).state_dict(), NewDetector(2).state_dict())
    assert result.reinitialized == ()
    assert len(result.wrong_shape) == 2


def test_the_optional_modules_of_a_new_family_may_be_missing_in_the_model_only(new_family):
    complete = NewDetector(2)
    complete.masks = nn.Linear(2, 2)
    file, model = complete.state_dict(), NewDetector(2).state_dict()
    assert match(model, file).left_out == {"masks": ("masks.weight", "masks.bias")}
    assert match(model, file).unexpected == ()
    assert match(file, model).missing == ("masks.weight", "masks.bias")


def test_a_new_family_is_renamed_in_both_directions(new_family):
    published = {"head.cls.weight": 1, "body.weight": 2}
    assert to_detectron2(published) == {"new_head.classes.weight": 1, "backbone.weight": 2}
    assert to_published(to_detectron2(published)) == published


def test_a_new_family_sets_rates_and_decay_of_its_parameters(new_family):
    model = NewDetector(2)
    ids = {name: 3 if "head" in name else 2 for name, _ in model.named_parameters()}
    groups = get_layer_decay_groups(model, 1.0, 0.1, lambda names: ids, layer_decay=0.5)
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert settings[id(model.table)] == (0.125, 0.0)
    assert settings[id(model.backbone.weight)] == (0.5, 0.1)
    assert settings[id(model.new_head.classes.weight)] == (1.0, 0.1)


def test_a_new_family_is_analyzed_and_compiled_by_its_parts(new_family, monkeypatch):
    model = NewDetector(2)
    assert part_of_module(model) == {"backbone": "backbone", "new_head": "heads"}
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function.__self__))
    compile_parts(model)
    assert compiled == [model.backbone, model.new_head]


def test_rules_are_those_of_the_backbone_and_of_the_detector():
    names = ["backbone.patch_embed.conv1.weight", "transformer.level_embeds"]
    assert parameter_rules(names).offset_layers == ("offset_mask.", "sampling_offsets", "reference_points")
    assert parameter_rules(names[:1]).offset_layers == ("offset_mask.",)
    assert parameter_rules(["not_patch_embed.conv1.weight"]) == ParameterRules()


@pytest.mark.parametrize(
    "other",
    [
        DetectorFamily(title="New", signature="other.weight", class_layers=()),
        DetectorFamily(title="Other", signature=NEW.signature, class_layers=()),
        BackboneFamily(title="New", signature="stem.weight"),
    ],
    ids=["title", "signature", "title of a backbone"],
)
def test_two_families_with_one_title_or_signature_are_refused(new_family, other):
    with pytest.raises(ValueError, match="title and signature must be unique, and 'New' with the signature"):
        register(other)
    register(NEW)  # the same again is harmless
    assert detector_family([NEW.signature]) == NEW


@pytest.mark.parametrize("package", ["checkpoint", "solver", "data", "evaluation"])
def test_generic_packages_import_no_detector(package, repository: Path):
    for file in sorted((repository / "flash_internimage" / package).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith(("flash_internimage.modeling", "flash_internimage.projects")), file
