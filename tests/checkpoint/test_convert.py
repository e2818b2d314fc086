"""Converting files: bit-exact round trips, atomic writes, and messages for what is refused."""

from pathlib import Path

import pytest
import torch

from flash_internimage.checkpoint import CheckpointError, convert_checkpoint, read_checkpoint
from flash_internimage.checkpoint.formats import state_dict_of
from tests.checkpoint.test_published import manifest

RECIPES = [
    "mask_rcnn_flash_intern_image_t_fpn_1x_coco",
    "cascade_flash_intern_image_l_fpn_1x_coco",
    "dino_4scale_flash_internimage_t_1x_coco",
]


@pytest.fixture(params=RECIPES)
def published(request, tmp_path) -> Path:
    """A published file with the real names and dtypes; every tensor has one value, all different."""
    tensors = {
        name: torch.tensor([index], dtype=getattr(torch, entry["dtype"]))
        for index, (name, entry) in enumerate(manifest(request.param).items())
    }
    meta = {"epoch": 12, "CLASSES": ("cat", "dog")}
    torch.save({"meta": meta, "state_dict": tensors, "optimizer": {"state": {}}}, tmp_path / "published.pth")
    return tmp_path / "published.pth"


def assert_same_tensors(left: Path, right: Path) -> None:
    a, b = state_dict_of(read_checkpoint(left)), state_dict_of(read_checkpoint(right))
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_round_trip_is_bit_exact(published, suffix):
    ours, back = published.with_name(f"ours{suffix}"), published.with_name("back.pth")
    convert_checkpoint(published, ours)
    convert_checkpoint(ours, back, to="published")
    assert_same_tensors(published, back)


def test_class_names_are_kept(published):
    ours, back = published.with_name("ours.pth"), published.with_name("back.pth")
    convert_checkpoint(published, ours)
    assert read_checkpoint(ours)["classes"] == ["cat", "dog"]
    convert_checkpoint(ours, back, to="published")
    assert read_checkpoint(back)["meta"]["CLASSES"] == ("cat", "dog")


def test_a_target_that_exists_is_kept_unless_forced(published):
    target = published.with_name("ours.pth")
    target.write_text("mine")
    with pytest.raises(CheckpointError, match=r"ours.pth exists; give --force"):
        convert_checkpoint(published, target)
    assert target.read_text() == "mine"
    convert_checkpoint(published, target, force=True)
    assert "model" in read_checkpoint(target)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ours.txt", "expected a file name that ends in .pth or .safetensors"),
        ("none/ours.pth", "does not exist; make it first"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused_before_reading(tmp_path, target, message):
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(tmp_path / "missing.pth", tmp_path / target)


def test_a_file_that_has_the_wanted_names_already_is_refused(published):
    with pytest.raises(CheckpointError, match="it has these names already"):
        convert_checkpoint(published, published.with_name("out.pth"), to="published")


def test_tensors_of_no_known_detector_are_refused(tmp_path):
    torch.save({"a.weight": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="it is of no detector of this project"):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
