"""The predictor: the same detections as in evaluation, for arrays, files, PIL images and batches of them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from flash_internimage import Predictor, model_zoo
from flash_internimage.checkpoint import Checkpointer, read_checkpoint
from flash_internimage.solver.ema import build_ema

NANO = "mask_rcnn_flash_internimage_nano"


@pytest.fixture(scope="module")
def predictor(nano_checkpoint):
    return Predictor(NANO, nano_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def picture():
    """(60, 90, 3), with a left half unlike the right, and channels unlike each other."""
    image = np.random.RandomState(0).randint(0, 256, (60, 90, 3)).astype(np.uint8)
    image[:, 45:, 0] //= 8
    return image


def assert_same(output, expected):
    ours, theirs = output["instances"], expected["instances"]
    assert ours.image_size == theirs.image_size
    for name in ("pred_classes", "pred_masks", "scores"):
        torch.testing.assert_close(ours.get(name), theirs.get(name), rtol=0, atol=0)
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=0, atol=0)


def test_the_package_alone_imports_neither_torch_nor_detectron2():
    code = "import flash_internimage, sys; assert not {'torch', 'detectron2', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_equals_the_model_fed_by_the_test_loader(predictor, nano_checkpoint, picture, tmp_path):
    file = tmp_path / "picture.png"
    Image.fromarray(picture).save(file)
    cfg = model_zoo.get_config(NANO)
    cfg.model.roi_heads.num_classes = 3
    model = instantiate(cfg.model).eval()
    Checkpointer(model).load_complete(str(nano_checkpoint))
    sample = instantiate(cfg.dataloader.test.mapper)({"file_name": str(file), "height": 60, "width": 90})
    with torch.no_grad():
        (expected,) = model([sample])
    assert len(expected["instances"]) > 10
    assert_same(predictor(file), expected)


def test_every_kind_of_image_gives_the_same(predictor, picture, tmp_path):
    file = tmp_path / "picture.png"
    Image.fromarray(picture).save(file)
    expected = predictor(picture)
    for output in predictor([str(file), Image.fromarray(picture)]):
        assert_same(output, expected)
    (output,) = predictor(picture[None])
    assert_same(output, expected)
    assert predictor([]) == []


def test_channels_are_rgb(predictor, picture):
    swapped = predictor(picture[..., ::-1])["instances"]
    assert not torch.equal(swapped.scores, predictor(picture)["instances"].scores)


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "PIL image"])
def test_exif_orientation_is_honored(predictor, picture, tmp_path, as_file):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    file = tmp_path / "turned.png"
    Image.fromarray(np.rot90(picture)).save(file, exif=exif)
    assert_same(predictor(file if as_file else Image.open(file)), predictor(picture))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (500, 3)], ids=["one pixel", "a row", "thin"])
def test_any_size(predictor, size):
    instances = predictor(np.zeros((*size, 3), np.uint8))["instances"]
    assert instances.image_size == size
    assert instances.pred_masks.shape[1:] == size


def test_a_score_threshold_leaves_out_what_is_below(predictor, nano_checkpoint, picture):
    everything = predictor(picture)["instances"]
    threshold = float(everything.scores[len(everything) // 3])
    some = Predictor(NANO, nano_checkpoint, min_score=threshold, device="cpu")(picture)
    assert 0 < len(some["instances"]) < len(everything)
    assert_same(some, {"instances": everything[everything.scores >= threshold]})


def test_classes_are_those_of_the_checkpoint(predictor):
    assert predictor.class_names == ["mug", "spoon", "US$ fork"]
    assert predictor.model.roi_heads.num_classes == 3


@pytest.mark.parametrize(
    ("number", "expected"), [(80, ["person", "bicycle"]), (2, ["class 0", "class 1"])], ids=["as many as COCO's", "other"]
)
def test_classes_where_the_checkpoint_names_none(tmp_path, number, expected):
    cfg = model_zoo.get_config(NANO)
    cfg.model.roi_heads.num_classes = number
    torch.save(instantiate(cfg.model).state_dict(), tmp_path / "plain.pth")
    assert Predictor(cfg, tmp_path / "plain.pth", device="cpu").class_names[:2] == expected


def test_configs_by_file_and_loaded(predictor, nano_checkpoint, repository, picture):
    expected = predictor(picture)
    assert_same(Predictor(repository / f"configs/shapes/{NANO}.py", nano_checkpoint, device="cpu")(picture), expected)
    cfg = model_zoo.get_config(NANO)
    cfg.train.init_checkpoint = str(nano_checkpoint)
    cfg.train.device = "cpu"
    assert_same(Predictor(cfg)(picture), expected)
    assert cfg.model.roi_heads.num_classes == 4


def test_averaged_weights_are_used_where_the_run_keeps_them(nano_checkpoint, picture, tmp_path):
    cfg = model_zoo.get_config(NANO)
    cfg.model.roi_heads.num_classes = 3
    contents = read_checkpoint(nano_checkpoint)
    model = instantiate(cfg.model)
    model.load_state_dict(contents["model"])
    average = build_ema(model).state_dict()
    torch.save({**contents, "model": instantiate(cfg.model).state_dict(), "ema": average}, tmp_path / "model.pth")
    plain = Predictor(cfg, nano_checkpoint, device="cpu")(picture)
    cfg.train.ema.enabled = True
    assert_same(Predictor(cfg, tmp_path / "model.pth", device="cpu")(picture), plain)


def test_a_published_name_means_the_published_checkpoint(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = []
    monkeypatch.setattr("flash_internimage.checkpoint.hub.fetch", lambda path: asked.append(path) or "/nowhere.pth")
    with pytest.raises(ValueError, match=r"/nowhere.pth: no such file"):
        Predictor("mask_rcnn_flash_intern_image_t_fpn_1x_coco", device="cpu")
    assert asked == ["hf://OpenGVLab/DCNv4/mask_rcnn_flash_internimage_t_fpn_1x_coco.pth"]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        pytest.param(np.zeros((5, 5), np.uint8), ValueError, r"shape \(height, width, 3\).* got \(5, 5\) of uint8", id="gray"),
        pytest.param(np.zeros((5, 5, 3)), ValueError, r"dtype uint8, in RGB, got \(5, 5, 3\) of float64", id="floats"),
        pytest.param(np.zeros((0, 5, 3), np.uint8), ValueError, r"got \(0, 5, 3\)", id="empty"),
        pytest.param([3], ValueError, "an array, a path or a PIL image, got a int", id="a number"),
        pytest.param("nowhere.jpg", FileNotFoundError, "nowhere.jpg", id="no file"),
        pytest.param(__file__, ValueError, "test_predictor.py: not a readable image", id="no image"),
    ],
)
def test_bad_images(predictor, image, error, message):
    with pytest.raises(error, match=message):
        predictor(image)


@pytest.mark.parametrize(
    ("config", "checkpoint", "message"),
    [
        pytest.param("mask_rcnn_flash_internimage_t", None, "did you mean mask_rcnn_flash_int", id="name"),
        pytest.param("configs/shapes/mask_rcnn.py", None, "configs/shapes/mask_rcnn.py: no such file", id="file"),
        pytest.param(NANO, None, "no checkpoint given", id="no checkpoint"),
        pytest.param(NANO, "nowhere.pth", "nowhere.pth: no such file", id="checkpoint"),
    ],
)
def test_bad_configs(config, checkpoint, message):
    with pytest.raises((ValueError, OSError), match=message):
        Predictor(config, checkpoint, device="cpu")
