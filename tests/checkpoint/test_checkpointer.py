"""The checkpointer with small models of realistic tensor names: what it recognizes, logs and refuses."""

import logging

import pytest
import torch
from torch import nn

from flash_internimage.checkpoint import Checkpointer, CheckpointError
from flash_internimage.checkpoint.published import to_published


class Named(nn.Module):
    """A model with the given parameter names; all tensors are 2 x 2, except those whose size depends on the classes."""

    def __init__(self, names: list[str], num_classes: int = 2):
        super().__init__()
        for name in names:
            *path, leaf = name.split(".")
            parent = self
            for part in path:
                if part not in dict(parent.named_children()):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            rows = num_classes if "predictor" in name else 2
            parent.register_parameter(leaf, nn.Parameter(torch.randn(rows, 2)))


DETECTOR = [
    "backbone.bottom_up.patch_embed.conv1.weight",
    "backbone.bottom_up.levels.0.norm.0.weight",
    "backbone.fpn_lateral2.weight",
    "roi_heads.box_head.fc1.weight",
    "roi_heads.box_predictor.cls_score.weight",
]


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    return Named(DETECTOR).state_dict()


def load(model: nn.Module, contents: dict, tmp_path) -> Checkpointer:
    torch.save(contents, tmp_path / "file.pth")
    checkpointer = Checkpointer(model)
    checkpointer.load(str(tmp_path / "file.pth"))
    return checkpointer


def prefixed(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def assert_equal(model: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    state = model.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda ours: {"model": ours, "iteration": 3}, id="checkpoint of this project"),
        pytest.param(lambda ours: ours, id="state dict"),
        pytest.param(lambda ours: prefixed(ours, "module."), id="state dict of a wrapped model"),
        pytest.param(lambda ours: prefixed(ours, "_orig_mod."), id="state dict of a compiled model"),
        pytest.param(lambda ours: {"model": prefixed(ours, "_orig_mod.")}, id="checkpoint of a compiled model"),
        pytest.param(lambda ours: prefixed(ours, "module._orig_mod."), id="state dict of a wrapped compiled model"),
        pytest.param(lambda ours: prefixed(ours, "_orig_mod.module."), id="state dict of a compiled wrapped model"),
        pytest.param(
            lambda ours: {name.replace(".bottom_up.", "._orig_mod.bottom_up._orig_mod."): t for name, t in ours.items()},
            id="state dict of a model with compiled modules",
        ),
        pytest.param(
            lambda ours: {"meta": {}, "state_dict": prefixed(to_published(ours), "module._orig_mod.")},
            id="published checkpoint of a compiled model",
        ),
        pytest.param(
            lambda ours: {
                "meta": {"epoch": 12, "CLASSES": ("a", "b")},
                "optimizer": {"state": {}, "param_groups": []},
                "state_dict": {**to_published(ours), "ema_backbone_patch_embed_conv1_weight": torch.zeros(2, 2)},
            },
            id="published checkpoint",
        ),
    ],
)
def test_every_kind_of_complete_checkpoint_fills_the_model(tmp_path, trained, wrap):
    model = Named(DETECTOR)
    checkpointer = load(model, wrap(trained), tmp_path)
    assert checkpointer.last_match.summary() == "5 matched"
    assert_equal(model, trained)


def test_an_imagenet_backbone_of_a_compiled_model_fills_the_backbone(tmp_path):
    backbone = {name: torch.randn(2, 2) for name in ("patch_embed.conv1.weight", "levels.0.norm.0.weight")}
    model = Named(DETECTOR)
    load(model, {"state_dict": prefixed({**backbone, "head.weight": torch.randn(9, 2)}, "_orig_mod.")}, tmp_path)
    assert_equal(model, {f"backbone.bottom_up.{name}": tensor for name, tensor in backbone.items()})


@pytest.mark.parametrize("compiled", ["", "backbone.bottom_up"], ids=["the model", "its backbone"])
def test_a_compiled_model_is_loaded_and_saved_like_a_plain_one(tmp_path, trained, compiled):
    model = Named(DETECTOR)
    if compiled:
        model.backbone.bottom_up = torch.compile(model.backbone.bottom_up)
    else:
        model = torch.compile(model)
    assert any("_orig_mod" in name for name in model.state_dict())
    torch.save(trained, tmp_path / "plain.pth")
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.load(str(tmp_path / "plain.pth"))
    assert checkpointer.last_match.summary() == "5 matched"
    checkpointer.save("saved")
    saved = torch.load(tmp_path / "saved.pth", weights_only=True)["model"]
    torch.testing.assert_close(dict(saved), trained, rtol=0, atol=0)


def test_a_tensor_that_is_in_the_file_twice_is_refused(tmp_path, trained):
    twice = "roi_heads._orig_mod.box_head.fc1.weight"
    with pytest.raises(CheckpointError, match=f"holds roi_heads.box_head.fc1.weight twice, once of them as {twice}"):
        load(Named(DETECTOR), {**trained, twice: torch.zeros(2, 2)}, tmp_path)


def test_contents_are_logged_in_one_line(tmp_path, trained, caplog):
    with caplog.at_level(logging.INFO):
        load(Named(DETECTOR), {"meta": {}, "state_dict": to_published(trained)}, tmp_path)
    assert "published Mask R-CNN checkpoint, 5 tensors: 5 matched" in caplog.text


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_an_imagenet_backbone_fills_the_backbone_and_drops_the_head(tmp_path, key, caplog):
    backbone = {name: torch.randn(2, 2) for name in ("patch_embed.conv1.weight", "levels.0.norm.0.weight")}
    model = Named(DETECTOR)
    before = {name: t.clone() for name, t in model.state_dict().items() if "bottom_up" not in name}
    with caplog.at_level(logging.INFO):
        load(model, {key: {**backbone, "head.weight": torch.randn(9, 2)}}, tmp_path)
    assert_equal(model, {f"backbone.bottom_up.{name}": tensor for name, tensor in backbone.items()})
    assert_equal(model, before)
    assert "ImageNet backbone, 2 tensors: 2 matched, 3 missing" in caplog.text
    assert "1 left out (head.weight)" in caplog.text


def test_an_imagenet_backbone_loads_into_a_bare_backbone(tmp_path):
    names = ["patch_embed.conv1.weight", "levels.0.norm.0.weight"]
    backbone = Named(names).state_dict()
    model = Named(names)
    load(model, {"model": backbone}, tmp_path)
    assert_equal(model, backbone)


def test_another_number_of_classes_reinitializes_the_head_and_logs_it(tmp_path, trained, caplog):
    model = Named(DETECTOR, num_classes=7)
    head = model.roi_heads.box_predictor.cls_score.weight.detach().clone()
    with caplog.at_level(logging.INFO):
        load(model, {"model": trained}, tmp_path)
    torch.testing.assert_close(model.roi_heads.box_predictor.cls_score.weight, head, rtol=0, atol=0)
    assert "1 re-initialized for another number of classes (roi_heads.box_predictor.cls_score.weight)" in caplog.text


def test_a_checkpoint_of_another_model_is_refused_with_a_summary_and_loads_nothing(tmp_path, trained):
    model = Named([*DETECTOR[:-1], "other.weight"])
    before = {name: t.clone() for name, t in model.state_dict().items()}
    message = r"4 matched, 1 missing \(other.weight\), 1 unexpected \(roi_heads.box_predictor.cls_score.weight\)"
    with pytest.raises(CheckpointError, match=message + "; this file belongs to another model"):
        load(model, {"model": trained}, tmp_path)
    assert_equal(model, before)


def test_a_wrong_shape_is_refused_with_both_shapes(tmp_path, trained):
    trained["backbone.fpn_lateral2.weight"] = torch.zeros(3, 2)
    with pytest.raises(CheckpointError, match=r"fpn_lateral2.weight: \(3, 2\) in the file, \(2, 2\) in the model"):
        load(Named(DETECTOR), {"model": trained}, tmp_path)


def test_load_complete_refuses_a_checkpoint_that_leaves_tensors_random(tmp_path, trained):
    torch.save({"model": trained}, tmp_path / "a.pth")
    Checkpointer(Named(DETECTOR)).load_complete(str(tmp_path / "a.pth"))
    with pytest.raises(CheckpointError, match="1 tensor would stay random"):
        Checkpointer(Named(DETECTOR, num_classes=7)).load_complete(str(tmp_path / "a.pth"))
    with pytest.raises(CheckpointError, match="no checkpoint given"):
        Checkpointer(Named(DETECTOR)).load_complete("")


def test_a_backbone_for_a_model_without_one_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="the model has 0 such backbones"):
        load(Named(["a.weight"]), {"model": {"patch_embed.conv1.weight": torch.zeros(2, 2)}}, tmp_path)


def test_a_file_without_tensors_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no tensors, only: epoch"):
        load(Named(DETECTOR), {"epoch": 3}, tmp_path)


def test_checkpointables_are_restored_with_the_model(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    Checkpointer(model, str(tmp_path), optimizer=optimizer).save("model_0", iteration=4)

    resumed = nn.Linear(2, 2)
    resumed_optimizer = torch.optim.AdamW(resumed.parameters())
    rest = Checkpointer(resumed, str(tmp_path), optimizer=resumed_optimizer).resume_or_load("", resume=True)
    assert rest["iteration"] == 4
    assert_equal(resumed, model.state_dict())
    torch.testing.assert_close(resumed_optimizer.state_dict(), optimizer.state_dict(), rtol=0, atol=0)


def test_after_a_failed_save_the_previous_checkpoint_is_the_last(tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.save("first")
    saved = {name: t.clone() for name, t in model.state_dict().items()}

    def half(data, path):
        path.write_bytes(b"PK\x03\x04 half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half)
    model.weight.data.zero_()
    with pytest.raises(OSError, match="No space left"):
        checkpointer.save("second")
    resumed = nn.Linear(2, 2)
    Checkpointer(resumed, str(tmp_path)).resume_or_load("", resume=True)
    assert_equal(resumed, saved)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.pth", "last_checkpoint"]


@pytest.mark.parametrize(
    ("value", "message"), [(7, "got one int"), ("cat", "got one str"), (torch.ones(2), "got one Tensor"), (["a", 1], "one int")]
)
@pytest.mark.parametrize("published", [False, True], ids=["classes", "CLASSES"])
def test_class_names_of_another_type_are_refused(trained, tmp_path, value, message, published):
    names = {"meta": {"CLASSES": value}} if published else {"classes": value}
    with pytest.raises(CheckpointError, match=f"file.pth: the checkpoint's class names should be a list of text, .*{message}"):
        load(Named(DETECTOR), {"model": trained, **names}, tmp_path)


@pytest.mark.parametrize(("dtype", "kind"), [(torch.int64, "whole"), (torch.bool, "whole"), (torch.complex64, "complex")])
def test_weights_that_are_no_floating_point_numbers_are_refused(trained, tmp_path, dtype, kind):
    name = "backbone.fpn_lateral2.weight"
    trained[name] = trained[name].to(dtype)
    with pytest.raises(CheckpointError, match=f"{name} holds {kind} numbers .*, the model has floating-point numbers"):
        load(Named(DETECTOR), {"model": trained}, tmp_path)


def test_half_precision_weights_are_loaded(trained, tmp_path):
    halves = {name: tensor.bfloat16() for name, tensor in trained.items()}
    model = Named(DETECTOR)
    load(model, {"model": halves}, tmp_path)
    assert_equal(model, {name: tensor.float() for name, tensor in halves.items()})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_loaded_with_a_warning(trained, tmp_path, caplog, value):
    trained["backbone.fpn_lateral2.weight"][1, 0] = value
    with caplog.at_level(logging.WARNING):
        load(Named(DETECTOR), {"model": trained}, tmp_path)
    assert "1 tensor holds NaN or infinite values (backbone.fpn_lateral2.weight)" in caplog.text


@pytest.mark.parametrize("state", [3, [1, 2], {"a": 1}, None], ids=repr)
def test_a_training_state_of_another_type_is_described(trained, tmp_path, state):
    torch.save({"model": trained, "optimizer": state}, tmp_path / "file.pth")
    model = Named(DETECTOR)
    checkpointer = Checkpointer(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(CheckpointError, match="its training state is damaged or of another version"):
        checkpointer.load(str(tmp_path / "file.pth"))
