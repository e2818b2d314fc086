"""The whole detector in a small size: unusual batches, padding, precision, distributed training, configs."""

from __future__ import annotations

import copy
import math
import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import LazyConfig, instantiate
from detectron2.export.flatten import TracingAdapter
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from flash_internimage.analysis.complexity import count_flops
from flash_internimage.export import exportable_detector
from flash_internimage.modeling.detr.denoising import DenoisingQueries
from flash_internimage.process_means import each_process_alone, mean_over_processes
from flash_internimage.projects.dino import DINO
from flash_internimage.projects.dino.dino import detect, rescale
from tests.projects.dino.small import CONFIG, NUM_CLASSES, NUM_QUERIES, image, small_config, small_dino, total
from tests.two_processes import leave

BOXES = [[8.0, 8.0, 40.0, 56.0], [30.0, 2.0, 62.0, 20.0]]
HARD_BATCHES = {
    "usual": lambda: [image(64, 64, BOXES), image(96, 64, BOXES[:1])],
    "one image without objects": lambda: [image(64, 64, BOXES), image(64, 64, [])],
    "no object at all": lambda: [image(64, 64, []), image(64, 96, [])],
    "boxes of one pixel": lambda: [image(64, 64, [[0.0, 0.0, 1.0, 1.0], [63.0, 63.0, 64.0, 64.0]])],
    "sizes from 8 to 256 pixels": lambda: [image(8, 8, [[1.0, 1.0, 5.0, 6.0]]), image(256, 40, BOXES)],
    "more boxes than queries": lambda: [image(64, 64, [[float(i), 0.0, i + 9.0, 9.0] for i in range(NUM_QUERIES + 9)])],
    "fewer tokens than queries": lambda: [image(16, 16, [[1.0, 1.0, 9.0, 9.0]])],
}


def loss_names(layers: int) -> set[str]:
    prefixes = ["interm_", "", "dn_"] + [f"d{i}.{dn}" for i in range(layers - 1) for dn in ("", "dn_")]
    return {prefix + name for prefix in prefixes for name in ("loss_cls", "loss_bbox", "loss_iou")}


@pytest.mark.parametrize("batch", HARD_BATCHES)
def test_losses_and_gradients_of_all_parameters_are_finite(batch: str):
    model = small_dino().train()
    losses = model(HARD_BATCHES[batch]())
    assert losses.keys() == loss_names(layers=3)
    assert all(loss.isfinite() and loss.dim() == 0 for loss in losses.values())
    total(losses).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without, "unused parameters stop a distributed run"
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_tensors_follow_the_model_to_its_device(device: torch.device):
    model, batch = small_dino().to(device), HARD_BATCHES["usual"]()
    losses = model.train()(batch)
    total(losses).backward()
    with torch.no_grad():
        instances = model.eval()(batch)[0]["instances"]
    assert {loss.device.type for loss in losses.values()} == {device.type}
    assert instances.pred_boxes.device.type == instances.scores.device.type == instances.pred_classes.device.type == device.type


def test_a_batch_without_objects_has_class_losses_but_no_box_losses():
    model = small_dino().train()
    losses = model(HARD_BATCHES["no object at all"]())
    for name, loss in losses.items():
        assert (loss > 0) == (name.endswith("loss_cls") and "dn_" not in name), name


def test_reference_boxes_are_detached_between_layers_but_not_in_predictions():
    model = small_dino().double().train()
    losses = model([image(64, 64, BOXES)])
    heads = model.transformer.box_heads

    def reached(loss: Tensor) -> list[bool]:
        gradients = torch.autograd.grad(loss, [head[0].weight for head in heads], retain_graph=True, allow_unused=True)
        return [gradient is not None and bool(gradient.any()) for gradient in gradients]

    # Look forward twice: the loss of a layer reaches its own head and that of the previous layer, not the selection's.
    assert reached(losses["d0.loss_bbox"]) == [True, False, False, False]
    assert reached(losses["d1.loss_bbox"]) == [True, True, False, False]
    assert reached(losses["loss_bbox"]) == [False, True, True, False]
    assert reached(losses["interm_loss_bbox"]) == [False, False, False, True]


def test_normalizers_are_the_numbers_of_boxes_and_of_their_noisy_copies():
    model = small_dino().double().train()
    batch = [image(64, 64, BOXES), image(64, 64, BOXES[:1])]
    torch.manual_seed(0)
    once = model(batch)
    torch.manual_seed(0)
    model.criterion.weights = {name: 2 * weight for name, weight in model.criterion.weights.items()}
    twice = model(batch)
    for name in once:
        assert_close(twice[name], 2 * once[name])

    # num_queries is 6 and an image has at most two boxes: three groups, so nine copies of the three boxes.
    seen: list[DenoisingQueries] = []
    handle = model.denoising.register_forward_hook(lambda module, args, output: seen.append(output))
    model(batch)
    handle.remove()
    assert seen[0].num_groups == 3
    assert sum(len(match.queries) for match in seen[0].matches) == 9


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["NaN", "infinity"])
def test_losses_are_not_finite_if_features_are_not(value: float):
    model = small_dino().train()
    with torch.no_grad():
        model.neck.convs[0].weight[0, 0] = value
    assert not total(model([image(64, 64, BOXES)])).isfinite()


def test_detections_are_in_pixels_of_the_requested_size():
    model = small_dino().double().eval()
    entry = image(48, 80)
    with torch.no_grad():
        own = model([entry])[0]["instances"]
        asked = model([entry | {"height": 96, "width": 40}])[0]["instances"]
    assert own.image_size == (48, 80)
    assert asked.image_size == (96, 40)
    assert len(own) == len(asked) == 20
    assert_close(asked.pred_boxes.tensor, own.pred_boxes.tensor * own.pred_boxes.tensor.new_tensor([0.5, 2.0, 0.5, 2.0]))
    assert torch.equal(asked.scores, own.scores)
    assert (own.scores[:-1] >= own.scores[1:]).all()
    assert own.pred_classes.max() < NUM_CLASSES


def test_detect_by_hand_takes_pairs_of_query_and_class_and_clips():
    logits = torch.tensor([[[0.0, 3.0], [2.0, -1.0]]], dtype=torch.float64)
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [1.0, 0.25, 0.5, 0.1]]], dtype=torch.float64)
    (found,) = detect(logits, boxes, [(100, 200)], detections_per_image=3)
    assert_close(found.scores, torch.sigmoid(torch.tensor([3.0, 2.0, 0.0], dtype=torch.float64)))
    assert found.pred_classes.tolist() == [1, 0, 0]
    expected = [[50.0, 25.0, 150.0, 75.0], [150.0, 20.0, 200.0, 30.0], [50.0, 25.0, 150.0, 75.0]]
    assert_close(found.pred_boxes.tensor, torch.tensor(expected, dtype=torch.float64))


def test_a_box_without_area_is_kept():
    boxes = torch.tensor([[[0.5, 0.5, 0.0, 0.0]]], dtype=torch.float64)
    (found,) = detect(torch.zeros(1, 1, 1, dtype=torch.float64), boxes, [(10, 10)], detections_per_image=5)
    assert len(rescale(found, 20, 20)) == 1


# --- what lies under the padding mask ------------------------------------------------------------------------------------


class GarbageUnderPadding(nn.Module):
    """A neck that replaces the features under the padding mask with random values."""

    def __init__(self, neck: nn.Module, image_sizes: list[tuple[int, int]], padded_size: tuple[int, int], fill: float) -> None:
        super().__init__()
        self.neck, self.image_sizes, self.padded_size, self.fill = neck, image_sizes, padded_size, fill

    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        levels = []
        for level in self.neck(features):
            rows = torch.arange(level.shape[2]) * self.padded_size[0] // level.shape[2]
            columns = torch.arange(level.shape[3]) * self.padded_size[1] // level.shape[3]
            inside = torch.stack([(rows[:, None] < h) & (columns[None] < w) for h, w in self.image_sizes])
            garbage = self.fill * torch.randn(level.shape, dtype=level.dtype, generator=torch.Generator().manual_seed(1))
            levels.append(torch.where(inside[:, None], level, garbage))
        return levels


SIZES = [(64, 41), (50, 96)]


@pytest.fixture
def padded_pair() -> tuple[DINO, DINO, list[dict[str, Any]]]:
    """Two models with equal weights, one of them with random values under the padding, and a batch with padding."""
    model = small_dino().double()
    other = copy.deepcopy(model)
    other.neck = GarbageUnderPadding(other.neck, SIZES, (64, 96), fill=100.0)
    return model, other, [image(*SIZES[0], BOXES[:1]), image(*SIZES[1], BOXES)]


def test_values_under_the_padding_do_not_matter_in_evaluation(padded_pair):
    model, other, batch = padded_pair
    with torch.no_grad():
        expected, found = model.eval()(batch), other.eval()(batch)
    for a, b in zip(expected, found, strict=True):
        assert_close(b["instances"].scores, a["instances"].scores, rtol=1e-12, atol=1e-12)
        assert_close(b["instances"].pred_boxes.tensor, a["instances"].pred_boxes.tensor, rtol=1e-12, atol=1e-9)
        assert torch.equal(b["instances"].pred_classes, a["instances"].pred_classes)


def test_values_under_the_padding_do_not_matter_in_training(padded_pair):
    losses, gradients = [], []
    model, other, batch = padded_pair
    for net in (model, other):
        torch.manual_seed(0)
        losses.append(net.train()(batch))
        total(losses[-1]).backward()
        gradients.append([p.grad for part in (net.transformer, net.denoising, net.backbone) for p in part.parameters()])
    assert_close(losses[1], losses[0], rtol=1e-12, atol=1e-12)
    # GroupNorm of the neck includes the padding, so these gradients are equal only if that of the padding is zero.
    assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-10)


def test_without_the_mask_values_under_the_padding_matter(padded_pair):
    model, other, batch = padded_pair

    def unmask(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens, positions, mask, *rest = args
        return tokens, positions, torch.zeros_like(mask), *rest

    with torch.no_grad():
        for net in (model, other):
            net.eval().transformer.encoder.register_forward_pre_hook(unmask)
        expected, found = model(batch), other(batch)
    assert (expected[0]["instances"].scores - found[0]["instances"].scores).abs().max() > 1e-6


# --- precision -----------------------------------------------------------------------------------------------------------


def test_a_model_in_double_precision_has_only_float64_activations():
    model = small_dino().double()
    narrow = []

    def check(module: nn.Module, args: Any, output: Any) -> None:
        tensors = [t for t in (output if isinstance(output, (list, tuple)) else [output]) if isinstance(t, Tensor)]
        narrow.extend(type(module).__name__ for t in tensors if t.is_floating_point() and t.dtype != torch.float64)

    for module in model.modules():
        module.register_forward_hook(check)
    losses = model.train()([image(64, 64, BOXES)])
    assert all(loss.dtype == torch.float64 for loss in losses.values())
    with torch.no_grad():
        instances = model.eval()([image(64, 64)])[0]["instances"]
    assert instances.pred_boxes.tensor.dtype == instances.scores.dtype == torch.float64
    assert not narrow


def test_bfloat16_keeps_boxes_and_losses_in_single_precision():
    model, batch = small_dino(), [image(64, 64, BOXES), image(96, 64, [])]
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()(batch)
        with torch.no_grad():
            instances = model.eval()(batch)[0]["instances"]
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    total(losses).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert instances.pred_boxes.tensor.dtype == instances.scores.dtype == torch.float32
    assert len(instances.scores.unique()) > 1


# --- processes -----------------------------------------------------------------------------------------------------------


def _train(rank: int, port: int, folder: str) -> None:
    """One of two processes; the batch of the second one has no objects."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    assert mean_over_processes(torch.tensor([2.0, 4.0]) * (1 - rank)).tolist() == [1.0, 2.0]
    with each_process_alone():
        assert mean_over_processes(torch.tensor(float(rank))) == rank
    torch.manual_seed(0)
    # Without find_unused_parameters, DDP raises an error for unused parameters in the second step.
    model = DistributedDataParallel(small_dino().double().train())
    for _ in range(2):
        model.zero_grad()
        losses = model([image(64, 64, BOXES if rank == 0 else [])])
        total(losses).backward()
    torch.save([parameter.grad for parameter in model.parameters()], f"{folder}/{rank}.pth")
    leave()


@pytest.mark.slow
def test_distributed_training_with_one_process_without_objects(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_train, args=(port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert all(gradient.isfinite().all() for gradient in first)
    assert_close(second, first, rtol=0, atol=0)


# --- configuration and initial weights -----------------------------------------------------------------------------------


def literals(node: DictConfig, name: str, prefix: str = "") -> list[str]:
    """The places where a config sets ``name`` to a value instead of an interpolation."""
    found = []
    for key in node:
        if not OmegaConf.is_interpolation(node, key):
            value = node._get_node(key)
            if isinstance(value, DictConfig):
                found += literals(value, name, f"{prefix}{key}.")
            elif key == name:
                found.append(prefix + key)
    return found


def test_the_number_of_classes_is_set_once():
    config = LazyConfig.load(str(CONFIG)).model
    assert literals(config, "num_classes") == ["num_classes"]
    model = small_dino()
    assert model.denoising.label_embedding.num_embeddings == NUM_CLASSES
    assert {head.out_features for head in model.transformer.class_heads} == {NUM_CLASSES}


def test_the_number_of_backbone_channels_is_set_once():
    config = small_config()
    config.backbone.channels = 32
    assert instantiate(config).neck.in_channels == [64, 128, 256]


def test_a_saved_config_builds_the_same_model(tmp_path):
    config = LazyConfig.load(str(CONFIG))
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    assert not (tmp_path / "config.yaml.pkl").exists()
    with torch.device("meta"):
        model = instantiate(config.model)
        again = instantiate(LazyConfig.load(str(tmp_path / "config.yaml")).model)
    assert repr(again) == repr(model)


def test_initially_every_query_has_a_score_of_0_01_and_keeps_its_box():
    model = instantiate(small_config())
    for head in model.transformer.class_heads:
        assert_close(head.bias.sigmoid(), torch.full_like(head.bias, 0.01))
    with torch.no_grad():
        output = model.eval().predict(model.preprocess_image([image(64, 64)]))
    reference = output.selection.boxes.clamp(1e-3, 1 - 1e-3)
    for boxes in output.boxes:
        assert_close(boxes, reference, rtol=1e-4, atol=1e-5)
    for layer in model.transformer.decoder.layers:
        bound = math.sqrt(6 / (32 + 32))
        assert 0.9 * bound < layer.self_attn.out_proj.weight.abs().max() <= bound


def detections_of(model: DINO, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    (output,) = model([{"image": pixels}])
    found = output["instances"]
    return found.pred_boxes.tensor, found.scores, found.pred_classes


class OfOneImage(nn.Module):
    def __init__(self, model: DINO) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return detections_of(self.model, pixels)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["module", "function", "detectron2's adapter"])
def test_a_trace_is_refused_because_it_would_be_wrong_for_other_sizes(kind):
    model = small_dino().eval()
    pixels = torch.rand(3, 64, 96) * 255
    traced = {
        "module": OfOneImage(model),
        "function": lambda x: detections_of(model, x),
        "detectron2's adapter": TracingAdapter(model, [{"image": pixels}]),
    }[kind]
    with pytest.raises(ValueError, match="^DINO: torch.jit.trace would keep the sizes .* use torch.compile"), torch.no_grad():
        torch.jit.trace(traced, (pixels,))


def test_flops_can_still_be_counted_from_a_recorded_graph():
    assert count_flops(small_dino().eval(), 64, 96)[""] > 0


def test_what_the_message_of_a_refused_trace_recommends_works():
    model = small_dino().eval()
    detector = exportable_detector(model)
    inputs = torch.rand(1, 3, 64, 96) * 255, torch.tensor([[64, 80]])
    with torch.no_grad():
        assert_close(torch.export.export(detector, inputs, strict=False).module()(*inputs), detector(*inputs))
        compiled = torch.compile(model, backend="eager")
        for size in [(64, 96), (130, 70)]:
            pixels = torch.rand(3, *size) * 255
            assert_close(detections_of(compiled, pixels), detections_of(model, pixels))


def test_an_image_without_annotations_is_an_error_in_training():
    with pytest.raises(ValueError, match=r"DINO: in training every image needs 'instances', got none for \['x.jpg'\]"):
        small_dino().train()([image(64, 64) | {"file_name": "x.jpg"}])


def test_a_few_steps_on_one_image_lower_the_loss():
    torch.manual_seed(0)
    model, batch = instantiate(small_config()).train(), [image(64, 64, BOXES)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(40):
        losses = model(batch)
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        history.append(float(total(losses).detach()))
    assert sum(history[-5:]) < 0.7 * sum(history[:5])
