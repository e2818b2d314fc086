"""Runs DINO on the reference batch and names the results like the arrays of ``golden/dino_*.npz``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from flash_internimage.checkpoint.published import to_published
from flash_internimage.modeling.detr.denoising import NoiseDraws
from flash_internimage.projects.dino import DINO
from tests.reference.deterministic import draw_image

# (height, width) of the generated images, which form the batches "ab" and "cd". Each batch has one padded image.
IMAGES = {"a": (224, 288), "b": (256, 192), "c": (213, 331), "d": (250, 187)}

Golden = dict[str, np.ndarray]
Arrays = dict[str, np.ndarray]


@contextmanager
def recording(*modules: nn.Module) -> Iterator[dict[nn.Module, list[Any]]]:
    """Record the outputs of modules while the context is open."""
    outputs: dict[nn.Module, list[Any]] = {module: [] for module in modules}
    handles = [m.register_forward_hook(lambda module, _, output: outputs[module].append(output)) for m in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class Run:
    """Runs a model on a batch of generated images. The backbone runs only once; later calls reuse its features.

    Args:
        model: model with loaded weights, in its dtype, without stochastic depth.
        golden: the stored arrays, which include the targets and the random draws.
        names: names of the images.
        ranking: (N, Q) tokens to select instead of the highest-scoring ones. In float32 neighbors in the ranking can swap;
            with the stored ranking, all later results can be compared element by element.
    """

    def __init__(self, model: DINO, golden: Golden, names: str, ranking: np.ndarray | None = None) -> None:
        self.model, self.golden, self.names = model, golden, names
        self.ranking = None if ranking is None else torch.from_numpy(ranking).long()
        self.inputs = [{"image": torch.from_numpy(draw_image(n, *IMAGES[n])).permute(2, 0, 1)} for n in names]
        self.features = model.backbone(model.preprocess_image(self.inputs).tensor)

    @contextmanager
    def _patched(self) -> Iterator[pytest.MonkeyPatch]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.model.backbone, "forward", lambda images: self.features)
            if self.ranking is not None:
                patch.setattr(self.model.transformer.query_selection, "rank", lambda logits: self.ranking)
            yield patch

    @torch.no_grad()
    def evaluate(self) -> Arrays:
        """All results of an evaluation, with feature maps subsampled by ``level_channel_space_strides``."""
        model, transformer = self.model.eval(), self.model.transformer
        tokens, token_logits = transformer.query_selection.norm, transformer.class_heads[-1]
        parts = model.neck, model.position_encoding, transformer, transformer.encoder, transformer.decoder, tokens, token_logits
        with self._patched(), recording(*parts) as seen:
            results = model(self.inputs)

        arrays: dict[str, np.ndarray | Tensor] = {}
        levels = zip(seen[model.neck][0], seen[model.position_encoding], strict=True)
        for level, (features, position) in enumerate(levels):
            channels, space = self.golden["level_channel_space_strides"][level]
            arrays[f"level{level}"] = features[:, ::channels, ::space, ::space]
            arrays[f"level{level}/shape"] = np.array(features.shape)
            arrays[f"level{level}/std"] = features.std(dim=(0, 2, 3))
            arrays[f"level{level}/position"] = position[:, ::channels, ::space, ::space]

        output, decoded = seen[transformer][0], seen[transformer.decoder][0]
        class_stride = int(self.golden["decoder/class_stride"])
        arrays["encoder/memory"] = seen[transformer.encoder][0][:, :, ::16]
        arrays["encoder/max_logit_per_token"] = seen[token_logits][0].amax(dim=-1)
        arrays["encoder/deltas"] = transformer.box_heads[-1](seen[tokens][0])[:, ::8]
        arrays["encoder/topk_indices"] = transformer.query_selection.rank(seen[token_logits][0])
        arrays["encoder/topk_anchors"] = output.selection.boxes
        arrays["encoder/topk_logits"] = output.selection.logits[..., ::class_stride]
        arrays["decoder/logits"] = output.logits[..., ::class_stride]
        arrays["decoder/logits_last"] = output.logits[-1]
        arrays["decoder/boxes"] = output.boxes
        arrays["decoder/references"] = torch.stack(decoded.references)[:, :, ::4]
        arrays["decoder/states_last"] = decoded.states[-1][:, ::8, ::8]
        for name, result in zip(self.names, results, strict=True):
            instances = result["instances"]
            arrays[f"detections/{name}/boxes"] = instances.pred_boxes.tensor
            arrays[f"detections/{name}/scores"] = instances.scores
            arrays[f"detections/{name}/labels"] = instances.pred_classes
        return {name: np.asarray(array) for name, array in arrays.items()}

    def evaluate_odd(self) -> Arrays:
        """``odd/*``: a subset of the results of an evaluation, with other subsampling."""
        arrays = self.evaluate()
        arrays["decoder/boxes"] = arrays["decoder/boxes"][-1:]
        arrays["decoder/logits_last"] = arrays["decoder/logits_last"][:, ::4]
        with torch.no_grad():
            arrays["level3"] = np.asarray(self.model.neck(self.features)[3][:, ::8])
        return {f"odd/{name}": array for name, array in arrays.items() if f"odd/{name}" in self.golden}

    def train(self, noise: bool, gradients: bool) -> Arrays:
        """Results of a training step.

        Args:
            noise: if False, set both noise scales of the denoising queries to 0.
            gradients: if True, also compute ``grad_norm/values``.
        """
        model, denoising, matcher = self.model.train(), self.model.denoising, self.model.criterion.matcher
        inputs = [entry | {"instances": self._instances(name)} for entry, name in zip(self.inputs, self.names, strict=True)]
        counts = [len(entry["instances"]) for entry in inputs]
        with self._patched() as patch, recording(denoising, matcher) as seen, torch.set_grad_enabled(gradients):
            patch.setattr(denoising, "draw_noise", lambda shape, like: stored_draws(self.golden, counts, like))
            if not noise:
                patch.setattr(denoising, "label_noise", 0.0)
                patch.setattr(denoising, "box_noise", 0.0)
            losses = model(inputs)

        arrays: dict[str, np.ndarray | Tensor] = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        arrays["loss/total"] = sum(losses.values()).detach()
        stages = ["encoder", *[f"layer{i}" for i in range(len(model.transformer.decoder.layers))]]
        for stage, matches in zip(stages, seen[matcher], strict=True):
            for name, match in zip(self.names, matches, strict=True):
                arrays[f"matching/{stage}/{name}"] = torch.stack([match.queries, match.targets], dim=1)

        queries = seen[denoising][0]
        arrays["denoising/box_query"] = queries.box_logits
        if noise:
            mask = queries.attention_mask(model.transformer.query_selection.num_queries)
            arrays["denoising/label_query"] = queries.contents[..., ::16].detach()
            arrays["denoising/attention_mask_bits"] = np.packbits(mask.numpy())
            arrays["denoising/attention_mask_shape"] = np.array(mask.shape)
            arrays["denoising/pad_size"] = np.array(queries.count)
            arrays["denoising/groups"] = np.array(queries.num_groups)
        if gradients:
            arrays["grad_norm/values"] = self._gradient_norms(losses)
        prefix = "train" if noise else "train_without_noise"
        return {f"{prefix}/{name}": np.asarray(array) for name, array in arrays.items()}

    def _instances(self, name: str) -> Instances:
        instances = Instances(IMAGES[name])
        instances.gt_boxes = Boxes(torch.from_numpy(self.golden[f"targets/{name}/boxes"]))
        instances.gt_classes = torch.from_numpy(self.golden[f"targets/{name}/labels"])
        return instances

    def _gradient_norms(self, losses: dict[str, Tensor]) -> np.ndarray:
        self.model.zero_grad()
        sum(loss.log() for loss in losses.values()).backward()
        norms = to_published({name: float(parameter.grad.norm()) for name, parameter in self.model.named_parameters()})
        names = json.loads(str(self.golden["train/grad_norm/names"]))
        assert sorted(names) == sorted(norms)
        return np.array([norms[name] for name in names])


def stored_draws(golden: Golden, counts: list[int], like: Tensor) -> NoiseDraws:
    """Convert the stored random draws to the layout of this project.

    MMDetection draws the noise of 2 x groups copies of the targets (positives, negatives, positives, ...), each image by
    image. New labels are drawn only for the labels to replace.

    Args:
        counts: number of boxes of each image.
        like: tensor of the dtype to return.
    """
    groups = int(golden["train/denoising/groups"])
    uniform = torch.from_numpy(golden["train/denoising/label_uniform"])
    labels = torch.zeros(len(uniform), dtype=torch.int64)
    labels[uniform < 0.25] = torch.from_numpy(golden["train/denoising/new_labels"]).long()
    sign = torch.from_numpy(golden["train/denoising/box_sign"]) * 2 - 1

    def rearranged(draws: Tensor) -> Tensor:
        by_image = draws.unflatten(0, (2 * groups, sum(counts))).split(counts, dim=1)
        layout = draws.new_zeros(len(counts), groups, 2, max(counts), *draws.shape[1:])
        for image, (copies, count) in enumerate(zip(by_image, counts, strict=True)):
            layout[image, :, :, :count] = copies.unflatten(0, (groups, 2))
        return layout

    return NoiseDraws(
        label_uniform=rearranged(uniform.to(like)),
        new_labels=rearranged(labels),
        box_sign=rearranged(sign.to(like)),
        box_uniform=rearranged(torch.from_numpy(golden["train/denoising/box_uniform"]).to(like)),
    )
