"""Converting a checkpoint from the command line."""

import torch
from detectron2.config import instantiate

from flash_internimage import model_zoo
from flash_internimage.checkpoint.published import to_published


def test_prints_what_was_written_and_refuses_to_overwrite(flash_internimage, tmp_path):
    model = instantiate(model_zoo.get_config("mask_rcnn_flash_internimage_nano").model)
    torch.save({"state_dict": to_published(model.state_dict())}, tmp_path / "published.pth")
    argv = ["convert", tmp_path / "published.pth", tmp_path / "ours.pth"]
    done = flash_internimage(*argv)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'ours.pth'}: Mask R-CNN, detectron2 names\n")
    assert torch.load(tmp_path / "ours.pth", weights_only=True)["model"].keys() == model.state_dict().keys()
    refused = flash_internimage(*argv)
    assert refused.returncode == 1
    assert "exists; give --force" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert flash_internimage(*argv, "--force").returncode == 0
