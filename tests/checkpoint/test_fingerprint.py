"""Fingerprint of weights: independent of order and memory layout, and different for any change."""

import hashlib

import torch

from flash_internimage.checkpoint.fingerprint import weights_sha256


def test_by_hand():
    expected = hashlib.sha256(
        b"a torch.float32 (2,)\n" + bytes([0, 0, 128, 63, 0, 0, 0, 64]) + b"b torch.int64 ()\n" + bytes(8)
    )
    assert weights_sha256({"b": torch.tensor(0), "a": torch.tensor([1.0, 2.0])}) == expected.hexdigest()


def test_layout_does_not_matter_but_every_value_does():
    weights = torch.randn(4, 3, 2, 2).bfloat16()
    assert weights_sha256({"w": weights}) == weights_sha256({"w": weights.to(memory_format=torch.channels_last)})
    changed = weights.clone()
    changed[3, 2, 1, 1] += 1
    others = [{"w": changed}, {"v": weights}, {"w": weights.flatten()}, {"w": weights.float()}, {"w": weights[:0]}, {}]
    assert weights_sha256({"w": weights}) not in [weights_sha256(other) for other in others]
