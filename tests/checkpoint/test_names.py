"""Templates and tables: the two directions of a rule agree, and unknown names are not renamed."""

import pytest

from flash_internimage.checkpoint.names import Table, Template


def test_a_number_is_shifted_in_both_directions():
    table = Table.of([("neck.{i}.conv.*", "fpn{i+2}.*")])
    assert table.rename("neck.0.conv.weight") == "fpn2.weight"
    assert table.inverse.rename("fpn2.weight") == "neck.0.conv.weight"


def test_a_number_below_the_shift_is_not_renamed():
    assert Table.of([("fpn{i+2}.*", "neck.{i}.*")]).rename("fpn1.weight") is None


@pytest.mark.parametrize("name", ["neck.x.conv.weight", "neck.0.conv.", "a.neck.0.conv.weight", "neck_0.conv.weight"])
def test_names_outside_the_template_are_not_matched(name):
    assert Template("neck.{i}.conv.*").match(name) is None


def test_a_dot_in_a_template_is_a_dot():
    assert Template("a.b").match("axb") is None


def test_the_first_rule_that_matches_applies():
    table = Table.of([("conv{i}.norm.*", "bn{i}.*"), ("conv{i}.*", "c{i}.*")])
    assert table.rename("conv1.norm.weight") == "bn1.weight"
    assert table.rename("conv1.weight") == "c1.weight"


def test_two_names_that_would_be_renamed_to_the_same_name_are_refused():
    with pytest.raises(ValueError, match=r"both 'a\.x' and 'b\.x' would be renamed to 'c\.x'"):
        Table.of([("a.*", "c.*"), ("b.*", "c.*")]).rename_all(["a.x", "b.x"])


def test_unknown_names_are_left_out():
    assert Table.of([("a.*", "b.*")]).rename_all(["a.x", "other"]) == {"a.x": "b.x"}
