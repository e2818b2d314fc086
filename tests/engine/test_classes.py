"""Class names in checkpoints."""

import pytest
import torch

from flash_internimage.checkpoint import Checkpointer, read_checkpoint
from flash_internimage.engine.classes import ClassNames, require_same_classes


def test_names_are_saved_in_the_checkpoint_and_compared_on_load(tmp_path):
    model = torch.nn.Linear(1, 1)
    Checkpointer(model, str(tmp_path), classes=ClassNames(["cat", "dog"])).save("model")
    path = str(tmp_path / "model.pth")
    assert read_checkpoint(path)["classes"] == ["cat", "dog"]
    Checkpointer(model, classes=ClassNames(["cat", "dog"])).load(path)
    with pytest.raises(ValueError, match="'dog' as class 1, the data has 'cow'"):
        Checkpointer(model, classes=ClassNames(["cat", "cow"])).load(path)


def test_unavailable_names_are_not_compared():
    require_same_classes(None, ["a"])
    require_same_classes(["a"], None)
    require_same_classes(["a"], ["a"])


def test_error_for_another_number_of_classes_shows_both():
    with pytest.raises(ValueError, match=r"it has 6 classes \(0, 1, 2, 3, 4, …\), the data has 1 \(a\)"):
        require_same_classes([str(i) for i in range(6)], ["a"])
