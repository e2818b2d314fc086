"""Runs of this project's DINO, taken apart into arrays under the names of ``golden/dino_*.npz``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from flash_internimage.projects.dino import DINO
from flash_internimage.projects.dino.denoising import NoiseDraws
from torch import Tensor, nn

from tests.reference.deterministic import draw_image

# Height and width of the drawn images, and the batches they form. Each batch has one image that is padded.
IMAGES = {"a": (224, 288), "b": (256, 192), "c": (213, 331), "d": (250, 187)}
CLASS_STRIDE = 8

Golden = dict[str, np.ndarray]
Arrays = dict[str, np.ndarray | Tensor]


def batch(names: str, golden: Golden | None = None) -> list[dict[str, Any]]:
    """detectron2's dicts for the drawn images of these names; with their targets where ``golden`` is given."""
    inputs = []
    for name in names:
        image = torch.from_numpy(draw_image(name, *IMAGES[name])).permute(2, 0, 1)
        inputs.append({"image": image, "file_name": name})
        if golden is not None:
            instances = Instances(IMAGES[name])
            instances.gt_boxes = Boxes(torch.from_numpy(golden[f"targets/{name}/boxes"]))
            instances.gt_classes = torch.from_numpy(golden[f"targets/{name}/labels"])
            inputs[-1]["instances"] = instances
    return inputs


@contextmanager
def recording(*modules: nn.Module) -> Iterator[dict[nn.Module, list[Any]]]:
    """Collect what modules return while the context is open."""
    outputs: dict[nn.Module, list[Any]] = {module: [] for module in modules}
    handles = [m.register_forward_hook(lambda module, _, output: outputs[module].append(output)) for m in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def evaluation_arrays(model: DINO, names: str, strides: np.ndarray) -> Arrays:
    """Run an evaluation of a batch.

    Args:
        model: in evaluation mode.
        names: of the images.
        strides: (channel, space) of each level, by which the stored maps were thinned.
    """
    transformer = model.transformer
    selection_norm, class_head = transformer.query_selection.norm, transformer.class_heads[-1]
    parts = model.neck, model.position_encoding, transformer, transformer.encoder, transformer.decoder, selection_norm, class_head
    with recording(*parts) as seen:
        results = model(batch(names))

    arrays: Arrays = {}
    for level, (features, position) in enumerate(zip(seen[model.neck][0], seen[model.position_encoding], strict=True)):
        channels, space = strides[level]
        arrays[f"level{level}"] = features[:, ::channels, ::space, ::space]
        arrays[f"level{level}/shape"] = np.array(features.shape)
        arrays[f"level{level}/std"] = features.std(dim=(0, 2, 3))
        arrays[f"level{level}/position"] = position[:, ::channels, ::space, ::space]

    output, decoded = seen[transformer][0], seen[transformer.decoder][0]
    arrays["encoder/memory"] = seen[transformer.encoder][0][:, :, ::16]
    arrays["encoder/max_logit_per_token"] = seen[class_head][0].amax(dim=-1)
    arrays["encoder/deltas"] = transformer.box_heads[-1](seen[selection_norm][0])[:, ::8]
    arrays["encoder/topk_indices"] = output.selection.indices
    arrays["encoder/topk_anchors"] = output.selection.boxes
    arrays["encoder/topk_logits"] = output.selection.logits[..., ::CLASS_STRIDE]
    arrays["decoder/logits"] = output.logits[..., ::CLASS_STRIDE]
    arrays["decoder/logits_last"] = output.logits[-1]
    arrays["decoder/boxes"] = output.boxes
    arrays["decoder/references"] = torch.stack(decoded.references)[:, :, ::4]
    arrays["decoder/states_last"] = decoded.states[-1][:, ::8, ::8]
    for name, result in zip(names, results, strict=True):
        instances = result["instances"]
        arrays[f"detections/{name}/boxes"] = instances.pred_boxes.tensor
        arrays[f"detections/{name}/scores"] = instances.scores
        arrays[f"detections/{name}/labels"] = instances.pred_classes
    return arrays


def stored_draws(golden: Golden, counts: list[int], groups: int) -> NoiseDraws:
    """The stored random numbers in this project's layout.

    They were drawn copy by copy (of 2 x groups: positives, negatives, positives, ...), within a copy image by image. New
    labels were drawn for the replaced ones only.
    """
    uniform = torch.from_numpy(golden["train/denoising/label_uniform"])
    labels = torch.zeros(len(uniform), dtype=torch.int64)
    labels[uniform < 0.25] = torch.from_numpy(golden["train/denoising/new_labels"]).long()
    sign = torch.from_numpy(golden["train/denoising/box_sign"]).double() * 2 - 1

    def laid_out(drawn: Tensor) -> Tensor:
        by_image = drawn.unflatten(0, (2 * groups, sum(counts))).split(counts, dim=1)
        layout = drawn.new_zeros(len(counts), groups, 2, max(counts), *drawn.shape[1:])
        for image, (copies, count) in enumerate(zip(by_image, counts, strict=True)):
            layout[image, :, :, :count] = copies.unflatten(0, (groups, 2))
        return layout

    return NoiseDraws(*map(laid_out, (uniform, labels, sign, torch.from_numpy(golden["train/denoising/box_uniform"]))))


def training_arrays(model: DINO, names: str, golden: Golden, noise: bool, gradients: bool = False) -> Arrays:
    """Run a training step of a batch, without stochastic depth.

    Args:
        model: in training mode.
        names: of the images.
        golden: holds targets and random draws.
        noise: False sets both noise scales to 0, which is left so.
        gradients: also compute ``grad_norm/values``, in the order of ``golden["train/grad_norm/names"]``.
    """
    inputs = batch(names, golden)
    counts = [len(item["instances"]) for item in inputs]
    if noise:
        draws = stored_draws(golden, counts, int(golden["train/denoising/groups"]))
        dtype = model.pixel_mean.dtype
        model.denoising.draw_noise = lambda shape, like: NoiseDraws(
            draws.label_uniform.to(dtype), draws.new_labels, draws.box_sign.to(dtype), draws.box_uniform.to(dtype)
        )
    else:
        model.denoising.label_noise = model.denoising.box_noise = 0.0

    with recording(model.denoising, model.criterion.matcher) as seen, torch.set_grad_enabled(gradients):
        losses = model(inputs)

    arrays: Arrays = {f"loss/{name}": loss for name, loss in losses.items()}
    arrays["loss/total"] = sum(losses.values())
    stages = ["encoder", *[f"layer{i}" for i in range(len(model.transformer.decoder.layers))]]
    for stage, matches in zip(stages, seen[model.criterion.matcher], strict=True):
        for name, match in zip(names, matches, strict=True):
            arrays[f"matching/{stage}/{name}"] = torch.stack([match.queries, match.targets], dim=1)

    queries = seen[model.denoising][0]
    arrays["denoising/box_query"] = queries.box_logits
    if noise:
        mask = queries.attention_mask(model.transformer.query_selection.num_queries)
        arrays["denoising/label_query"] = queries.contents[..., ::16]
        arrays["denoising/attention_mask_bits"] = np.packbits(mask.numpy())
        arrays["denoising/attention_mask_shape"] = np.array(mask.shape)
        arrays["denoising/pad_size"] = np.array(queries.count)
        arrays["denoising/groups"] = np.array(queries.num_groups)
    if gradients:
        model.zero_grad()
        sum(loss.log() for loss in losses.values()).backward()
    return arrays
