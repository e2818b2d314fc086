"""The twelve published configs have the hyper-parameters of OpenGVLab/DCNv4 (``tests/reference/recipes.json``)."""

from __future__ import annotations

import math
import pydoc
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from flash_internimage import model_zoo
from tests.configs.published import NAMES, RECIPES

COCO_IMAGES = 117266  # images of train2017 with at least one non-crowd box


Pair = tuple[DictConfig, dict[str, Any]]
"""A config and its recipe."""


def load(name: str) -> Pair:
    return model_zoo.get_config(name), RECIPES[name]


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return load(request.param)


@pytest.fixture(scope="module", params=[name for name in NAMES if RECIPES[name]["method"] != "dino"])
def two_stage_pair(request: pytest.FixtureRequest) -> Pair:
    return load(request.param)


@pytest.fixture(scope="module", params=[name for name in NAMES if RECIPES[name]["method"] == "dino"])
def dino_pair(request: pytest.FixtureRequest) -> Pair:
    return load(request.param)


def iterations(recipe: dict[str, Any], epochs: float) -> int:
    return round(epochs * math.ceil(COCO_IMAGES / recipe["data"]["total_batch_stated"]))


def test_the_model_zoo_has_exactly_the_published_recipes():
    assert model_zoo.list() == sorted(RECIPES)


def test_backbone(pair):
    cfg, recipe = pair
    ours = cfg.model.backbone if recipe["method"] == "dino" else cfg.model.backbone.bottom_up
    theirs = recipe["backbone"]
    same = ["channels", "depths", "groups", "mlp_ratio", "drop_path_rate", "offset_scale", "post_norm", "kernel_size"]
    same += ["dcn_output_bias", "mlp_fc2_bias", "dw_kernel_size", "remove_center", "center_feature_scale"]
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    assert ours.with_cp == theirs["activation_checkpointing"]
    assert ours.layer_scale == theirs["layer_scale_init"]
    needed = {f"res{index + 2}" for index in theirs["out_indices"]}
    used = cfg.model.neck.in_features if recipe["method"] == "dino" else cfg.model.backbone.in_features
    assert set(used) == needed


def test_initial_weights(pair):
    cfg, recipe = pair
    assert cfg.train.init_checkpoint == f"hf://OpenGVLab/DCNv4/{recipe['backbone']['pretrained_file']}"


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_file(name):
    assert model_zoo.get_checkpoint(name) == f"hf://OpenGVLab/DCNv4/{RECIPES[name]['published']['checkpoint_file']}"


def test_optimizer(pair):
    cfg, recipe = pair
    ours, theirs = cfg.optimizer, recipe["optimizer"]
    assert (ours.lr, ours.weight_decay, ours.eps) == (theirs["base_lr"], theirs["weight_decay"], theirs["eps"])
    assert list(ours.betas) == theirs["betas"]
    assert cfg.train.clip_grad.max_norm == (recipe["gradient_clip"] or {}).get("max_norm")
    assert cfg.train.amp.enabled is (recipe["mixed_precision"] is not None)


def test_schedule(pair):
    cfg, recipe = pair
    theirs, ours = recipe["schedule"], cfg.lr_multiplier
    assert cfg.train.max_iter == iterations(recipe, theirs["epochs"])
    assert ours.max_iter == cfg.train.max_iter
    assert [ours.max_iter * step / ours.epochs for step in ours.steps] == [
        iterations(recipe, epoch) for epoch in theirs["lr_steps_epochs"]
    ]
    assert (ours.gamma, ours.warmup_iters, ours.warmup_ratio) == (
        theirs["lr_gamma"],
        theirs["warmup_iters"],
        theirs["warmup_ratio"],
    )


def test_evaluates_and_saves_once_per_epoch(pair):
    cfg, recipe = pair
    assert cfg.train.eval_period == cfg.train.checkpointer.period == iterations(recipe, 1)


def test_batch(pair):
    cfg, recipe = pair
    assert cfg.dataloader.train.total_batch_size == recipe["data"]["total_batch_stated"] == cfg.train.reference_batch_size


def test_ema(pair):
    cfg, recipe = pair
    assert cfg.train.ema.enabled is (recipe["ema"] is not None)
    if recipe["ema"]:
        assert cfg.train.ema.momentum == recipe["ema"]["momentum"]
        assert cfg.train.ema.warmup_iters == recipe["ema"]["warmup_total_iter"]


def test_images(pair):
    cfg, recipe = pair
    data = recipe["data"]
    assert cfg.model.input_format == data["channel_order"] == "RGB"
    assert list(cfg.model.pixel_mean) == data["mean"]
    assert list(cfg.model.pixel_std) == data["std"]
    assert cfg.dataloader.train.dataset.filter_empty is (data["images_without_boxes"] == "dropped from training")
    assert cfg.dataloader.train.dataset.min_side == data["smallest_image_side"]
    assert cfg.dataloader.train.mapper.with_masks is (data["masks"] is not None)


def test_test_images(pair):
    cfg, recipe = pair
    (resize,) = cfg.dataloader.test.mapper.augmentations
    test = recipe["data"]["test"]
    assert (list(resize.short_sides), resize.long_side) == ([test["short_side"]], test["max_long_side"])


def locate(target: Any) -> Any:
    """Class of a ``_target_``, which is the class itself or its name."""
    return pydoc.locate(target) if isinstance(target, str) else target


def described(augmentation: DictConfig) -> dict[str, Any]:
    """Describe one of our augmentations in the terms of recipes.json."""
    kind = locate(augmentation["_target_"]).__name__
    if kind == "RandomFlip":
        return {"op": "flip", "direction": "horizontal", "probability": augmentation.prob}
    if kind == "ResizeToFit":
        sides = list(augmentation.short_sides)
        return {"op": "resize", "short_side": sides, "max_long_side": augmentation.long_side}
    if kind == "CropRange":
        return {"op": "crop", "size": [augmentation.low, augmentation.high]}
    assert kind == "OneOf", kind
    return {"op": "one_of", "policies": [[described(step) for step in policy] for policy in augmentation.policies]}


def stripped(operation: dict[str, Any]) -> dict[str, Any]:
    """Reduce an operation of recipes.json to the keys that differ between recipes."""
    if operation["op"] == "one_of":
        return {"op": "one_of", "policies": [[stripped(step) for step in policy] for policy in operation["policies"]]}
    keys = {
        "flip": ("op", "direction", "probability"),
        "resize": ("op", "short_side", "max_long_side"),
        "crop": ("op", "size"),
    }[operation["op"]]
    return {key: operation[key] for key in keys}


def test_augmentation(pair):
    cfg, recipe = pair
    theirs = [stripped(step) for step in recipe["data"]["train"] if step["op"] not in ("normalise", "pad")]
    assert [described(step) for step in cfg.dataloader.train.mapper.augmentations] == theirs
    crops = [step for policy in _policies(recipe) for step in policy if step["op"] == "crop"]
    for crop in crops:
        # recipes.json: DINO uses another image if a crop is empty; the other recipes keep the empty crop.
        assert cfg.dataloader.train.mapper.allow_empty is crop["allow_empty"]


def _policies(recipe: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [policy for step in recipe["data"]["train"] if step["op"] == "one_of" for policy in step["policies"]]


def test_region_proposals(two_stage_pair):
    cfg, recipe = two_stage_pair
    ours, theirs = cfg.model.proposal_generator, recipe["rpn"]
    strides = theirs["anchor_strides"]
    assert list(ours.anchor_generator.strides) == strides
    assert [list(sizes) for sizes in ours.anchor_generator.sizes] == [
        [theirs["anchor_scales"][0] * stride] for stride in strides
    ]
    assert list(ours.anchor_generator.aspect_ratios) == theirs["anchor_ratios"]
    assert list(ours.pre_nms_topk) == [theirs["train_proposals"]["nms_pre"], theirs["test_proposals"]["nms_pre"]]
    assert list(ours.post_nms_topk) == [theirs["train_proposals"]["max_per_img"], theirs["test_proposals"]["max_per_img"]]
    assert ours.nms_thresh == theirs["test_proposals"]["nms"]["iou_threshold"]
    assert ours.smooth_l1_beta == theirs["loss_box"].get("beta", 0.0)
    assert ours.anchor_boundary_thresh == theirs["train"]["allowed_border"]
    assigner = theirs["train"]["assigner"]
    assert (ours.anchor_matcher.positive, ours.anchor_matcher.negative) == (assigner["pos_iou_thr"], assigner["neg_iou_thr"])
    assert ours.anchor_matcher.low_quality == assigner["min_pos_iou"]
    sampler = theirs["train"]["sampler"]
    assert (ours.batch_size_per_image, ours.positive_fraction) == (sampler["num"], sampler["pos_fraction"])


def test_roi_heads(two_stage_pair):
    cfg, recipe = two_stage_pair
    ours, theirs = OmegaConf.to_container(cfg.model.roi_heads, resolve=False), recipe["roi"]
    single = theirs["stages"] == 1
    predictors = [ours["box_predictor"]] if single else ours["box_predictors"]
    matchers = [ours["proposal_matcher"]] if single else ours["proposal_matchers"]
    heads = [ours["box_head"]] if single else ours["box_heads"]
    for predictor, matcher, head, box_head, train in zip(
        predictors, matchers, heads, theirs["box_heads"], theirs["train"], strict=True
    ):
        assert predictor["box2box_transform"]["stds"] == box_head["box_coder"]["stds"]
        assert predictor["box_reg_loss_type"] == {"L1Loss": "l1", "GIoULoss": "giou"}[box_head["loss_box"]["kind"]]
        assert predictor.get("box_reg_loss_weight", 1.0) == box_head["loss_box"]["weight"]
        assert predictor["test_score_thresh"] == theirs["test"]["score_thr"]
        assert predictor["test_nms_thresh"] == theirs["test"]["nms"]["iou_threshold"]
        assert predictor["test_topk_per_image"] == theirs["test"]["max_per_img"]
        assigner = train["assigner"]
        assert (matcher["positive"], matcher["negative"]) == (assigner["pos_iou_thr"], assigner["neg_iou_thr"])
        assert matcher.get("low_quality") == (assigner["min_pos_iou"] if assigner["match_low_quality"] else None)
        assert head["conv_dims"] == [box_head["conv_channels"]] * box_head["shared_convs"]
        assert head["fc_dims"] == [box_head["fc_channels"]] * box_head["shared_fcs"]
    assert ours.get("stage_loss_weights", [1.0]) == theirs["stage_loss_weights"]
    assert (ours["batch_size_per_image"], ours["positive_fraction"]) == (
        theirs["train"][0]["sampler"]["num"],
        theirs["train"][0]["sampler"]["pos_fraction"],
    )


def test_dino(dino_pair):
    cfg, recipe = dino_pair
    model, theirs = cfg.model, recipe["dino"]
    transformer = model.transformer
    assert model.num_classes == theirs["classes"]
    assert model.detections_per_image == theirs["detections_per_image"]
    assert transformer.query_selection.num_queries == theirs["queries"]
    assert (transformer.embed_dim, transformer.num_levels) == (theirs["embed_dims"], theirs["levels"])
    for part, layers in ((transformer.encoder, theirs["encoder_layers"]), (transformer.decoder, theirs["decoder_layers"])):
        assert (part.num_layers, part.num_heads, part.num_points, part.ffn_dim) == (
            layers,
            theirs["heads"],
            theirs["points"],
            theirs["ffn_channels"],
        )
    denoising = theirs["denoising"]
    assert (model.denoising.label_noise, model.denoising.box_noise, model.denoising.num_queries) == (
        denoising["label_noise"],
        denoising["box_noise"],
        denoising["queries_per_polarity"],
    )
    criterion, matcher = model.criterion, model.criterion.matcher
    assert [criterion.class_weight, criterion.l1_weight, criterion.giou_weight] == [
        theirs[loss]["weight"] for loss in ("loss_cls", "loss_box", "loss_iou")
    ]
    assert [matcher.class_cost, matcher.l1_cost, matcher.giou_cost] == [
        theirs["matcher"][cost]["weight"] for cost in ("cls", "box", "iou")
    ]
    assert model.position_encoding.temperature == theirs["positional_encoding"]["temperature"]
