"""Runs a two-stage detector on the reference batch and names the results like the stored arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from flash_internimage.checkpoint import Checkpointer
from flash_internimage.checkpoint.published import to_published
from flash_internimage.modeling import sampling
from flash_internimage.structures.boxes import PreciseBoxes
from tests.golden.comparison import Comparison, compare
from tests.reference import Reference
from tests.reference.deterministic import draw_image

Golden = Mapping[str, np.ndarray]
Arrays = dict[str, np.ndarray]

SIZES = {"a": (224, 288), "b": (256, 192)}


def build(recipe: str, dtype: torch.dtype, reference: Reference, repository: Path, folder: Path, with_cp: bool) -> nn.Module:
    """Build a published model with random weights generated from the tensor names.

    The weights are loaded as users load them: from a file in the published format, by the project's checkpointer.

    Args:
        recipe: name of the config.
        dtype: precision of the model.
        folder: folder for the temporary file.
        with_cp: gradient checkpointing; changes only memory and time.
    """
    config = LazyConfig.load(str(repository / "configs" / "coco" / f"{recipe}.py")).model
    config.backbone.bottom_up.drop_path_rate = 0.0  # as for the stored training results
    config.backbone.bottom_up.with_cp = with_cp
    model = instantiate(config)
    checkpoint, path = reference.checkpoint(recipe), folder / f"{recipe}.pth"
    torch.save({"state_dict": checkpoint, "meta": {}}, path)
    Checkpointer(model).load_complete(str(path))
    path.unlink()
    assert to_published(model.state_dict()).keys() == checkpoint.keys()
    return model.to(dtype)


def images() -> list[dict[str, Any]]:
    """The reference batch in detectron2's input format."""
    pixels = {name: draw_image(name, *size) for name, size in SIZES.items()}
    return [
        {"image": torch.from_numpy(array).permute(2, 0, 1), "height": array.shape[0], "width": array.shape[1]}
        for array in pixels.values()
    ]


def with_targets(inputs: list[dict[str, Any]], golden: Golden) -> list[dict[str, Any]]:
    """Add the stored ground truth to the batch."""
    return [
        {
            **entry,
            "instances": Instances(
                (entry["height"], entry["width"]),
                gt_boxes=Boxes(torch.from_numpy(golden[f"targets/{name}/boxes"])),
                gt_classes=torch.from_numpy(golden[f"targets/{name}/labels"]),
                gt_masks=BitMasks(torch.from_numpy(unpack(golden, f"targets/{name}/masks"))),
            ),
        }
        for name, entry in zip(SIZES, inputs, strict=True)
    ]


def stored_results(golden: Golden) -> list[str]:
    """Names of the stored arrays that a model must reproduce, without inputs and subsampling parameters."""
    inputs = {"fpn_channel_space_strides", "rpn_deltas_space_stride", "box_head/rois", "mask_head/rois", "sharp/factor"}
    inputs |= {"mask_head/class_stride", "float32_noise"}
    return [n for n in golden if n not in inputs and not n.startswith("targets/") and not n.endswith("grad_norm/names")]


def compare_stored(name: str, value: np.ndarray, golden: Golden, dtype: torch.dtype) -> Comparison:
    """Compare an array with the stored one; arrays stored as float64 have a tolerance of 1e-10 instead of 1e-6."""
    comparison = compare(name, value, golden[name], dtype, json.loads(str(golden["float32_noise"])))
    if dtype == torch.float64 and golden[name].dtype == np.float64:
        return replace(comparison, tolerance=comparison.tolerance * 1e-4)
    return comparison


def unpack(golden: Golden, name: str) -> np.ndarray:
    """Unpack a boolean array from its stored bits and shape."""
    shape = tuple(golden[f"{name}_shape"])
    return np.unpackbits(golden[f"{name}_bits"])[: np.prod(shape)].reshape(shape).astype(bool)


def fixed_choice(candidates: Tensor, num: int) -> Tensor:
    """Deterministic replacement of the random sampler, as used for the stored results."""
    if len(candidates) <= num:
        return candidates
    return candidates[torch.arange(num) * len(candidates) // num]


class Run:
    """Runs a detector on the reference batch. The backbone runs only once; later calls reuse its features.

    Args:
        model: model with loaded weights, in its dtype.
        golden: the stored arrays, which include targets and inputs of single heads.
    """

    def __init__(self, model: nn.Module, golden: Golden) -> None:
        self.model, self.golden = model, golden
        self.inputs = images()
        self.images: ImageList = model.preprocess_image(self.inputs)
        self.features: dict[str, Tensor] = model.backbone(self.images.tensor)
        model.backbone.forward = self._features

    def _features(self, batch: Tensor) -> dict[str, Tensor]:
        assert torch.equal(batch, self.images.tensor), "the batch changed between two runs"
        return self.features

    def levels(self, names: list[str]) -> list[Tensor]:
        return [self.features[name] for name in names]

    def pyramid(self) -> Arrays:
        """``fpnN``, ``fpnN/std`` and ``fpnN/shape``."""
        arrays = {}
        for level, feature in enumerate(self.features.values()):
            channel_step, space_step = self.golden["fpn_channel_space_strides"][level]
            arrays[f"fpn{level}"] = numpy(feature[:, ::channel_step, ::space_step, ::space_step])
            arrays[f"fpn{level}/std"] = numpy(feature.std(dim=(0, 2, 3)))
            arrays[f"fpn{level}/shape"] = np.array(feature.shape)
        return arrays

    @torch.no_grad()
    def region_proposals(self, delta_stride: int = 1) -> Arrays:
        """``rpnN/*`` and ``proposals/*``, in evaluation mode."""
        rpn = self.model.eval().proposal_generator
        levels = self.levels(rpn.in_features)
        anchors = rpn.anchor_generator(levels)
        arrays = {}
        for level, (logits, deltas) in enumerate(zip(*rpn.rpn_head(levels), strict=True)):
            arrays[f"rpn{level}/logits"] = numpy(logits)
            arrays[f"rpn{level}/deltas"] = numpy(deltas[:, :, ::delta_stride, ::delta_stride])
            arrays[f"rpn{level}/anchors_first"] = numpy(anchors[level].tensor[:12])
            arrays[f"rpn{level}/anchors_count"] = np.array(len(anchors[level]))
        proposals, _ = rpn(self.images, self.features)
        return {**arrays, **{f"proposals/{name}": scored(p) for name, p in zip(SIZES, proposals, strict=True)}}

    def stored_boxes(self, name: str) -> list[PreciseBoxes]:
        """Split stored ``(image index, x1, y1, x2, y2)`` rows into the boxes of each image."""
        rois = torch.from_numpy(self.golden[name]).to(self.images.tensor.dtype)
        return [PreciseBoxes(rois[rois[:, 0] == number, 1:]) for number in range(len(SIZES))]

    @torch.no_grad()
    def detections(self, prefix: str) -> Arrays:
        """``<prefix>/<image>/*``: detections of the model, in the order of the stored detections."""
        arrays = {}
        for name, output in zip(SIZES, self.model.eval()(self.inputs), strict=True):
            found, stored = output["instances"], f"{prefix}/{name}"
            boxes, labels = numpy(found.pred_boxes.tensor), numpy(found.pred_classes)
            order = nearest_rows(boxes, self.golden[f"{stored}/boxes"], labels, self.golden[f"{stored}/labels"])
            masks = numpy(found.pred_masks)[order]
            arrays[f"{stored}/boxes"] = boxes[order]
            arrays[f"{stored}/labels"] = labels[order]
            arrays[f"{stored}/scores"] = numpy(found.scores)[order]
            arrays[f"{stored}/mask_area"] = masks.sum(axis=(1, 2))
            arrays[f"{stored}/mask_first_bits"] = np.packbits(masks[:8])
            arrays[f"{stored}/mask_shape"] = np.array(masks.shape)
        return arrays

    def train(self, norm_eval: bool) -> Step:
        """Forward pass of a training step, with the stored targets and the deterministic sampler."""
        model = self.model.train()
        if norm_eval:
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        rpn, heads = model.proposal_generator, model.roi_heads
        predictors = heads.box_predictor if isinstance(heads.box_predictor, nn.ModuleList) else [heads.box_predictor]
        with pytest.MonkeyPatch.context() as patch, EventStorage():
            patch.setattr(sampling, "choose", fixed_choice)
            anchors = record_results(patch, rpn, "label_and_sample_anchors")
            eligible = record_results(patch, rpn, "eligible_anchors")
            level_losses = record_results(patch, rpn, "losses_by_level")
            proposals = record_results(patch, rpn, "predict_proposals")
            samples = record_results(patch, heads, "_sample" if len(predictors) > 1 else "label_and_sample_proposals")
            predictions = [record_results(patch, predictor, "forward") for predictor in predictors]
            losses = model(with_targets(self.inputs, self.golden))
        return Step(
            losses=losses,
            level_losses=level_losses[0],
            eligible=eligible,
            anchor_labels=anchors[0][0],
            proposals=proposals[0],
            samples=samples,
            predictions=[calls[0] for calls in predictions],
        )

    def gradient_norms(self, losses: dict[str, Tensor]) -> np.ndarray:
        """Gradient norms of all parameters, in the stored order, for the sum of the logarithms of the losses."""
        self.model.zero_grad(set_to_none=True)
        torch.stack([loss.log() for loss in losses.values()]).sum().backward()
        norms = to_published({name: parameter.grad.norm().item() for name, parameter in self.model.named_parameters()})
        prefix = "train/" if "train/grad_norm/names" in self.golden else ""
        return np.array([norms[name] for name in json.loads(str(self.golden[f"{prefix}grad_norm/names"]))])


@dataclass
class Step:
    """Intermediate results of a training step.

    Attributes:
        losses: losses, under the names of the model.
        level_losses: classification and regression losses of the RPN, one entry per level.
        eligible: for each image, the mask of the anchors used in training.
        anchor_labels: (N, R) labels of the sampled anchors.
        proposals: proposals of each image.
        samples: for each stage, the sampled proposals of each image.
        predictions: for each stage, logits and deltas.
    """

    losses: dict[str, Tensor]
    level_losses: tuple[list[Tensor], list[Tensor]]
    eligible: list[Tensor]
    anchor_labels: Tensor
    proposals: list[Instances]
    samples: list[list[Instances]]
    predictions: list[tuple[Tensor, Tensor]]

    def rpn_arrays(self) -> Arrays:
        """``loss/loss_rpn_*`` and ``<image>/rpn_*``."""
        arrays = {
            "loss/loss_rpn_cls": np.array([loss.item() for loss in self.level_losses[0]]),
            "loss/loss_rpn_bbox": np.array([loss.item() for loss in self.level_losses[1]]),
        }
        for name, eligible, labels in zip(SIZES, self.eligible, self.anchor_labels, strict=True):
            arrays[f"{name}/rpn_positive"] = numpy((labels == 1).nonzero().flatten())
            arrays[f"{name}/rpn_negative"] = numpy((labels == 0).nonzero().flatten())
            arrays[f"{name}/rpn_anchors_considered_bits"] = np.packbits(numpy(eligible))
        return arrays

    def scored_proposals(self) -> list[np.ndarray]:
        """``(x1, y1, x2, y2, score)`` of each image."""
        return [scored(proposals) for proposals in self.proposals]

    def stage_arrays(self, stage: int) -> Arrays:
        """Samples, targets and predictions of one stage."""
        samples, (logits, deltas) = self.samples[stage], self.predictions[stage]
        boxes = [image.proposal_boxes.tensor for image in samples]
        rois = torch.cat([torch.cat([b.new_full((len(b), 1), n), b], dim=1) for n, b in enumerate(boxes)])
        labels = torch.cat([image.gt_classes for image in samples])
        background = logits.shape[1] - 1
        masks = []
        arrays = {}
        for name, image in zip(SIZES, samples, strict=True):
            positives = image[image.gt_classes < background]
            arrays[f"{name}/counts"] = np.array([len(positives), len(image) - len(positives)])
            arrays[f"{name}/positive_gt"] = numpy(positives.gt_masks.index)
            arrays[f"{name}/positive_is_gt"] = numpy(positives.is_target)
            masks.append(positives.gt_masks.crop_and_resize(positives.proposal_boxes.tensor, 28))
        masks = numpy(torch.cat(masks))
        accuracy = (logits.argmax(dim=1) == labels).double().mean().item() * 100
        return {
            **arrays,
            "rois": numpy(rois),
            "labels": numpy(labels),
            "target_boxes": numpy(torch.cat([image.gt_boxes.tensor for image in samples])[labels < background]),
            "mask_targets_bits": np.packbits(masks),
            "mask_targets_shape": np.array(masks.shape),
            "logits_mean": numpy(logits.mean(dim=1)),
            "deltas_mean": numpy(deltas.mean(dim=1)),
            "acc": np.array([accuracy]),
        }


def record_results(patch: pytest.MonkeyPatch, owner: object, method: str) -> list[Any]:
    """Patch a method to record its results; return the list that they are appended to."""
    unpatched, results = getattr(owner, method), []

    def spy(*args: Any, **kwargs: Any) -> Any:
        results.append(unpatched(*args, **kwargs))
        return results[-1]

    patch.setattr(owner, method, spy)
    return results


def nearest_rows(
    boxes: np.ndarray, stored: np.ndarray, labels: np.ndarray, stored_labels: np.ndarray, same_number: bool = True
) -> np.ndarray:
    """Find the index of the nearest box of the same class for each stored box; float32 can swap neighbors of a ranking."""
    assert not same_number or len(boxes) == len(stored), f"expected {len(stored)} boxes, got {len(boxes)}"
    if len(stored) == 0:
        return np.arange(0)
    distance = np.abs(boxes[None] - stored[:, None]).max(axis=-1)
    distance[labels[None] != stored_labels[:, None]] = np.inf
    return distance.argmin(axis=1)


def numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def scored(proposals: Instances) -> np.ndarray:
    """(R, 5) rows ``(x1, y1, x2, y2, score)`` of proposals."""
    return numpy(torch.cat([proposals.proposal_boxes.tensor, proposals.objectness_logits.sigmoid()[:, None]], dim=1))
