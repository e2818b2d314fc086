"""The family of detectron2's RetinaNet, which configs use on this project's backbones. It has no published checkpoints."""

from __future__ import annotations

from flash_internimage.families import DetectorFamily, register

RETINANET = register(
    DetectorFamily(
        title="RetinaNet",
        signature="head.cls_score.weight",
        class_layers=("head.cls_score.*",),
        parts={"head": "heads"},
    )
)
