"""Complete Mask R-CNN and Cascade Mask R-CNN models: unusual batches, precision, configs."""

import copy
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from tests.modeling.detectors import CONFIGS, FAMILIES, build, image, shrink
from tests.two_processes import leave

BATCHES = {
    "no objects": [image((64, 64), []), image((64, 96), [])],
    "one image without objects": [image((64, 64), []), image((64, 96), [[8.0, 8.0, 50.0, 60.0]])],
    "very different sizes": [image((32, 32), [[2.0, 2.0, 30.0, 30.0]]), image((300, 40), [[0.0, 0.0, 40.0, 300.0]])],
    "one-pixel objects": [image((64, 64), [[5.0, 5.0, 6.0, 6.0], [63.0, 63.0, 64.0, 64.0]])],
    "one-pixel image": [image((1, 1), [[0.0, 0.0, 1.0, 1.0]])],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_every_parameter_gets_a_finite_gradient(family: str, batch: list[dict]):
    model = build(family).train()
    with EventStorage():
        losses = model(batch)
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is unused"
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_detections_keep_the_dtype_of_the_model(family: str, dtype: torch.dtype):
    model = build(family).to(dtype).eval()
    for predictor in [m for m in model.modules() if hasattr(m, "test_score_thresh")]:
        predictor.test_score_thresh = 0.0
    with torch.no_grad():
        outputs = model([image((64, 64), []), image((40, 90), [])])
    for output, size in zip(outputs, [(64, 64), (40, 90)], strict=True):
        found = output["instances"]
        assert 0 < len(found) <= 100
        assert found.pred_boxes.tensor.dtype == found.scores.dtype == dtype
        assert found.pred_masks.shape == (len(found), *size)
        assert found.pred_masks.dtype == torch.bool


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_under_autocast_are_as_distinct_as_those_of_single_precision(family: str):
    model = build(family).eval()
    for predictor in [m for m in model.modules() if hasattr(m, "test_score_thresh")]:
        predictor.test_score_thresh = 0.0
        torch.nn.init.normal_(predictor.cls_score.weight, std=0.3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (output,) = model([image((64, 64), [])])
    scores = output["instances"].scores
    assert scores.dtype == torch.float32
    assert len(scores) == 100
    assert len(scores.unique()) > 90


@pytest.mark.parametrize("family", FAMILIES)
def test_trains_in_bfloat16(family: str):
    model = build(family).train()
    with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([image((64, 64), [[8.0, 8.0, 50.0, 60.0]])])
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_detections_do_not_depend_on_the_other_images_of_the_batch(family: str):
    model = build(family).double().eval()
    for predictor in [m for m in model.modules() if hasattr(m, "test_score_thresh")]:
        predictor.test_score_thresh = 0.0
    small, large = image((64, 64), []), image((64, 96), [])
    with torch.no_grad():
        alone = model([large])[0]["instances"]
        together = model([small, large])[1]["instances"]
    assert len(alone) == len(together)
    torch.testing.assert_close(together.pred_boxes.tensor, alone.pred_boxes.tensor)
    torch.testing.assert_close(together.scores, alone.scores)


def _train(rank: int, port: int) -> None:
    """Train in one of two processes; the batch of the second has no objects."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    boxes = [[8.0, 8.0, 50.0, 60.0]] if rank == 0 else []
    for family in FAMILIES:
        torch.manual_seed(0)
        # DistributedDataParallel without find_unused_parameters raises an error in the second step for unused parameters.
        model = DistributedDataParallel(build(family).train())
        for _ in range(2):
            with EventStorage():
                losses = model([image((64, 64), boxes)])
            sum(losses.values()).backward()
            assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
            model.zero_grad()
    leave()


@pytest.mark.slow
def test_two_processes_one_without_objects():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_train, args=(port,), nprocs=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_config_builds_the_same_model(family: str, tmp_path):
    config = LazyConfig.load(str(CONFIGS / f"{family}.py"))
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    assert not (tmp_path / "config.yaml.pkl").exists()
    saved = LazyConfig.load(str(tmp_path / "config.yaml"))
    with torch.device("meta"):
        model, again = instantiate(config.model), instantiate(saved.model)
    assert repr(again) == repr(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_number_of_classes_is_set_in_one_place(family: str):
    model = shrink(LazyConfig.load(str(CONFIGS / f"{family}.py")).model)
    literals = [key for key in literal_keys(model) if key.endswith("num_classes")]
    assert literals == ["roi_heads.num_classes"]
    model.roi_heads.num_classes = 3
    net = instantiate(model).train()
    with EventStorage():
        losses = net([image((64, 64), [[8.0, 8.0, 50.0, 60.0], [0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 29.0, 9.0]])])
    assert all(loss.isfinite() for loss in losses.values())
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert {shape[0] for name, shape in shapes.items() if "cls_score" in name} == {4}
    assert {shape[0] for name, shape in shapes.items() if "bbox_pred" in name} == {12}
    assert {shape[0] for name, shape in shapes.items() if "mask_head" in name and "predictor" in name} == {3}


def literal_keys(config: object, prefix: str = "") -> list[str]:
    """Dotted keys of all values that are not interpolations."""
    from omegaconf import DictConfig, ListConfig, OmegaConf

    if isinstance(config, DictConfig):
        items = [(key, config._get_node(key)) for key in config]
    elif isinstance(config, ListConfig):
        items = [(str(index), config._get_node(index)) for index in range(len(config))]
    else:
        return [prefix]
    keys = []
    for key, node in items:
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(node, DictConfig | ListConfig):
            keys += [path] if node._is_interpolation() else literal_keys(node, path)
        elif not OmegaConf.is_interpolation(config, key if isinstance(config, DictConfig) else int(key)):
            keys.append(path)
    return [key for key in keys if not key.endswith("_target_")]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_masks(family: str):
    config = shrink(LazyConfig.load(str(CONFIGS / f"{family}.py")).model)
    config.roi_heads.mask_in_features = None
    config.roi_heads.pop("mask_head", None)
    config.roi_heads.pop("mask_heads", None)
    model = instantiate(config)
    entry = copy.copy(image((64, 64), [[8.0, 8.0, 50.0, 60.0]]))
    entry["instances"].remove("gt_masks")
    with EventStorage():
        assert not any("mask" in name for name in model.train()([entry]))
    with torch.no_grad():
        assert not model.eval()([entry])[0]["instances"].has("pred_masks")
