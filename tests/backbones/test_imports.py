"""``flash_internimage.backbones`` needs neither detectron2 nor fvcore."""

import subprocess
import sys

PROGRAM = """
import sys

sys.modules["detectron2"] = sys.modules["fvcore"] = None  # importing either of them fails

import torch
from flash_internimage.backbones import flash_intern_image_t
from flash_internimage.backbones.flash_internimage import FlashInternImageBase
from flash_internimage.backbones.pretrained import load_backbone

small = dict(channels=16, depths=(1, 1), groups=(1, 2))
torch.save(FlashInternImageBase(**small, out_features=["res3"]).state_dict(), sys.argv[1])
net = flash_intern_image_t(out_indices=(1,), pretrained=sys.argv[1], **small)
print([tuple(feature.shape) for feature in net(torch.rand(1, 3, 64, 48))])
"""


def test_a_pretrained_backbone_needs_neither_detectron2_nor_fvcore(repository, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "weights.pth")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[(1, 32, 8, 6)]\n"
