"""Categories: one order of classes from the annotation file to the checkpoint and the predictor."""

import pytest
import torch
from detectron2.data import Metadata, MetadataCatalog

from flash_internimage.checkpoint import Checkpointer, read_checkpoint
from flash_internimage.data import Categories

MUG_AND_SPOON = [{"id": 42, "name": "mug"}, {"id": 7, "name": "spoon"}]


def test_classes_are_the_categories_in_ascending_order_of_ids():
    categories = Categories.from_coco(MUG_AND_SPOON)
    assert categories == {7: "spoon", 42: "mug"}
    assert (categories.names, categories.ids, categories.class_of) == (["spoon", "mug"], [7, 42], {7: 0, 42: 1})
    assert (len(categories), categories[42], 9 in categories) == (2, "mug", False)


def test_registered_categories_are_in_the_order_of_the_registered_classes():
    metadata = Metadata(thing_classes=["mug", "spoon"], thing_dataset_id_to_contiguous_id={42: 0, 7: 1})
    assert list(Categories.from_metadata(metadata).items()) == [(42, "mug"), (7, "spoon")]


def test_without_a_map_the_ids_are_the_classes():
    assert Categories.from_metadata(Metadata(thing_classes=["mug", "spoon"])) == {0: "mug", 1: "spoon"}
    assert Categories.from_metadata(Metadata()) is None


def test_coco_names_of_a_checkpoint_have_coco_ids():
    categories = Categories.from_names(MetadataCatalog.get("coco_2017_val").thing_classes)
    assert (categories.ids[0], categories.ids[11], categories.ids[-1]) == (1, 13, 90)  # 12 is not used
    assert len(categories) == 80


def test_other_names_of_a_checkpoint_are_counted_from_one():
    assert Categories.from_names(["mug", "spoon"]) == {1: "mug", 2: "spoon"}


def test_a_checkpoint_holds_the_names_as_a_list_and_compares_them_when_it_loads(tmp_path):
    model = torch.nn.Linear(1, 1)
    Checkpointer(model, str(tmp_path), classes=Categories({3: "cat", 5: "dog"})).save("model")
    path = str(tmp_path / "model.pth")
    assert read_checkpoint(path)["classes"] == ["cat", "dog"]
    Checkpointer(model, classes=Categories({1: "cat", 2: "dog"})).load(path)
    with pytest.raises(ValueError, match="'dog' as class 1, the data has 'cow'"):
        Checkpointer(model, classes=Categories({3: "cat", 5: "cow"})).load(path)


def test_unknown_names_are_not_compared():
    Categories({1: "a"}).require_names(None)
    Categories({1: "a"}).require_names(["a"])


def test_another_number_of_classes_shows_both():
    with pytest.raises(ValueError, match=r"it has 6 classes \(0, 1, 2, 3, 4, …\), the data has 1 \(a\)"):
        Categories({1: "a"}).require_names([str(i) for i in range(6)])
