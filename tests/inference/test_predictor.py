"""The predictor: the same detections as in evaluation, for arrays, files, PIL images and several images."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from PIL import Image

from flash_internimage import Predictor, model_zoo
from flash_internimage.checkpoint import Checkpointer, read_checkpoint
from flash_internimage.engine.config import save_config
from flash_internimage.engine.views import set_views
from flash_internimage.inference import predictor as predictor_module
from flash_internimage.solver.ema import build_ema
from flash_internimage.views import ViewOptions

NANO = "mask_rcnn_flash_internimage_nano"


@pytest.fixture(scope="module")
def predictor(nano_checkpoint):
    return Predictor(NANO, nano_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def image():
    """A (60, 90, 3) image without symmetry, whose channels differ."""
    image = np.random.RandomState(0).randint(0, 256, (60, 90, 3)).astype(np.uint8)
    image[:, 45:, 0] //= 8
    return image


def assert_same(output, expected):
    ours, theirs = output["instances"], expected["instances"]
    assert ours.image_size == theirs.image_size
    for name in ("pred_classes", "pred_masks", "scores"):
        torch.testing.assert_close(ours.get(name), theirs.get(name), rtol=0, atol=0)
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=0, atol=0)


def test_import_of_the_package_imports_neither_torch_nor_detectron2():
    code = "import flash_internimage, sys; assert not {'torch', 'detectron2', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_equals_the_model_with_the_test_mapper(predictor, nano_checkpoint, image, tmp_path):
    file = tmp_path / "image.png"
    Image.fromarray(image).save(file)
    cfg = model_zoo.get_config(NANO)
    cfg.model.roi_heads.num_classes = 3
    model = instantiate(cfg.model).eval()
    Checkpointer(model).load_complete(str(nano_checkpoint))
    sample = instantiate(cfg.dataloader.test.mapper)({"file_name": str(file), "height": 60, "width": 90})
    with torch.no_grad():
        (expected,) = model([sample])
    assert len(expected["instances"]) > 10
    assert_same(predictor(file), expected)


def test_every_type_of_image_gives_the_same_detections(predictor, image, tmp_path):
    file = tmp_path / "image.png"
    Image.fromarray(image).save(file)
    expected = predictor(image)
    for output in predictor([str(file), Image.fromarray(image)]):
        assert_same(output, expected)
    (output,) = predictor(image[None])
    assert_same(output, expected)
    assert predictor([]) == []


def test_channels_are_rgb(predictor, image):
    swapped = predictor(image[..., ::-1])["instances"]
    assert not torch.equal(swapped.scores, predictor(image)["instances"].scores)


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "PIL image"])
def test_exif_orientation_is_applied(predictor, image, tmp_path, as_file):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    file = tmp_path / "rotated.png"
    Image.fromarray(np.rot90(image)).save(file, exif=exif)
    assert_same(predictor(file if as_file else Image.open(file)), predictor(image))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (500, 3)], ids=["one pixel", "one row", "narrow"])
def test_any_image_size(predictor, size):
    instances = predictor(np.zeros((*size, 3), np.uint8))["instances"]
    assert instances.image_size == size
    assert instances.pred_masks.shape[1:] == size


def test_detections_below_the_score_threshold_are_dropped(predictor, nano_checkpoint, image):
    everything = predictor(image)["instances"]
    threshold = float(everything.scores[len(everything) // 3])
    some = Predictor(NANO, nano_checkpoint, min_score=threshold, device="cpu")(image)
    assert 0 < len(some["instances"]) < len(everything)
    assert_same(some, {"instances": everything[everything.scores >= threshold]})


def test_sorted_detections_are_returned_without_a_copy_of_their_masks(predictor, image, monkeypatch):
    (expected,) = predictor.model([{"image": predictor._mapper.resized(image), "height": 60, "width": 90}])
    monkeypatch.setattr(predictor, "model", lambda inputs: [expected])
    found = predictor(image)["instances"]
    assert len(found) > 10
    assert found.pred_masks.data_ptr() == expected["instances"].pred_masks.data_ptr()


def test_other_detections_are_sorted_and_filtered_by_one_copy(predictor, image, monkeypatch):
    scores = torch.tensor([0.25, 0.75, 0.5, 0.75])
    masks = torch.rand(4, 60, 90) < 0.5
    unsorted = Instances((60, 90), pred_boxes=Boxes(torch.rand(4, 4)), scores=scores, pred_masks=masks)
    copies, index = [], Instances.__getitem__
    monkeypatch.setattr(Instances, "__getitem__", lambda self, item: copies.append(item) or index(self, item))
    monkeypatch.setattr(predictor, "model", lambda inputs: [{"instances": unsorted}])
    monkeypatch.setattr(predictor, "min_score", 0.5)
    found = predictor(image)["instances"]
    assert found.scores.tolist() == [0.75, 0.75, 0.5]
    assert torch.equal(found.pred_masks, masks[[1, 3, 2]])
    assert len(copies) == 1


def test_class_names_are_those_of_the_checkpoint(predictor):
    assert predictor.class_names == ["mug", "spoon", "US$ fork"]
    assert predictor.model.roi_heads.num_classes == 3


@pytest.mark.parametrize(
    ("number", "expected"), [(80, ["person", "bicycle"]), (2, ["class 0", "class 1"])], ids=["as many as COCO's", "other"]
)
def test_class_names_without_names_in_the_checkpoint(tmp_path, number, expected):
    cfg = model_zoo.get_config(NANO)
    cfg.model.roi_heads.num_classes = number
    torch.save(instantiate(cfg.model).state_dict(), tmp_path / "plain.pth")
    assert Predictor(cfg, tmp_path / "plain.pth", device="cpu").class_names[:2] == expected


def test_config_may_be_a_file_or_loaded(predictor, nano_checkpoint, repository, image):
    expected = predictor(image)
    assert_same(Predictor(repository / f"configs/shapes/{NANO}.py", nano_checkpoint, device="cpu")(image), expected)
    cfg = model_zoo.get_config(NANO)
    cfg.train.init_checkpoint = str(nano_checkpoint)
    cfg.train.device = "cpu"
    assert_same(Predictor(cfg)(image), expected)
    assert cfg.model.roi_heads.num_classes == 4


def test_averaged_weights_are_used_if_the_checkpoint_has_them(nano_checkpoint, image, tmp_path):
    cfg = model_zoo.get_config(NANO)
    cfg.model.roi_heads.num_classes = 3
    contents = read_checkpoint(nano_checkpoint)
    model = instantiate(cfg.model)
    model.load_state_dict(contents["model"])
    average = build_ema(model).state_dict()
    torch.save({**contents, "model": instantiate(cfg.model).state_dict(), "ema": average}, tmp_path / "model.pth")
    plain = Predictor(cfg, nano_checkpoint, device="cpu")(image)
    cfg.train.ema.enabled = True
    assert_same(Predictor(cfg, tmp_path / "model.pth", device="cpu")(image), plain)


def test_published_name_loads_the_published_checkpoint(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetched = []
    monkeypatch.setattr("flash_internimage.checkpoint.hub.fetch", lambda path: fetched.append(path) or "/nowhere.pth")
    with pytest.raises(ValueError, match=r"/nowhere.pth: no such file"):
        Predictor("mask_rcnn_flash_intern_image_t_fpn_1x_coco", device="cpu")
    assert fetched == ["hf://OpenGVLab/DCNv4/mask_rcnn_flash_internimage_t_fpn_1x_coco.pth"]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        pytest.param(
            np.zeros((5, 5), np.uint8),
            ValueError,
            r"shape \(height, width, 3\).* got shape \(5, 5\) and dtype uint8",
            id="gray",
        ),
        pytest.param(np.zeros((5, 5, 3)), ValueError, r"got shape \(5, 5, 3\) and dtype float64", id="floats"),
        pytest.param(np.zeros((0, 5, 3), np.uint8), ValueError, r"got shape \(0, 5, 3\)", id="empty"),
        pytest.param([3], ValueError, "an array, a path or a PIL image, got int", id="number"),
        pytest.param("nowhere.jpg", FileNotFoundError, "nowhere.jpg", id="missing file"),
        pytest.param(__file__, ValueError, "test_predictor.py: not a readable image", id="not an image"),
    ],
)
def test_invalid_images(predictor, image, error, message):
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
def test_invalid_configs(config, checkpoint, message):
    with pytest.raises((ValueError, OSError), match=message):
        Predictor(config, checkpoint, device="cpu")


def matched(ours, theirs):
    """Largest differences between the boxes and between the scores of equal detections."""
    assert ours.pred_classes.tolist() == theirs.pred_classes.tolist()
    boxes = (ours.pred_boxes.tensor - theirs.pred_boxes.tensor).abs().max().item()
    return boxes, (ours.scores - theirs.scores).abs().max().item()


@pytest.mark.parametrize("batch_size", [2, 8])
def test_batches_of_unequal_images_give_the_detections_of_each_alone(predictor, nano_checkpoint, batch_size):
    random = np.random.RandomState(1)
    sizes = [(60, 90), (90, 60), (64, 90), (60, 90), (80, 90), (60, 89), (90, 60)]
    images = [random.randint(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    batched = Predictor(NANO, nano_checkpoint, device="cpu", batch_size=batch_size)
    shapes = []
    batched.model.register_forward_pre_hook(lambda _, inputs: shapes.append(len(inputs[0])))
    for ours, image in zip(batched(images), images, strict=True):
        # Batches are summed in another order, which is some roundings of float32: padding would change scores by 0.01.
        boxes, scores = matched(ours["instances"], predictor(image)["instances"])
        assert boxes < 1e-2
        assert scores < 1e-5
        assert ours["instances"].image_size == image.shape[:2]
    assert max(shapes) > 1
    assert sum(shapes) == len(images)


def test_a_stream_keeps_few_images(predictor, image):
    taken = []
    outputs = predictor.stream(taken.append(0) or image for _ in range(50))
    assert_same(next(outputs), predictor(image))
    assert len(taken) <= 5
    outputs.close()


FAMILIES = [NANO, "cascade_flash_internimage_nano", "dino_flash_internimage_nano"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_detects_in_tiles_and_augmented_views(name, tmp_path):
    cfg = model_zoo.get_config(name)
    torch.manual_seed(0)
    torch.save(instantiate(cfg.model).state_dict(), tmp_path / "model.pth")
    cfg.train.init_checkpoint = str(tmp_path / "model.pth")
    image = np.random.RandomState(0).randint(0, 256, (100, 150, 3)).astype(np.uint8)
    plain = Predictor(cfg, device="cpu")(image)["instances"]
    for options in ({"tile": 90}, {"tta": True}):
        found = Predictor(cfg, device="cpu", batch_size=2, **options)(image)["instances"]
        assert found.image_size == (100, 150)
        assert set(found.get_fields()) == set(plain.get_fields())
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        assert found.scores[0] >= plain.scores[0]
        boxes = found.pred_boxes.tensor
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([150, 100, 150, 100])).all()
        if found.has("pred_masks"):
            assert found.pred_masks.tensor.shape == (len(found), 100, 150)


def test_views_of_a_window_alone_are_those_of_the_model(nano_checkpoint, predictor, image):
    """With one tile as large as the image there is one view; its detections are merged with nothing."""
    found = Predictor(NANO, nano_checkpoint, device="cpu", tile=90)(image)["instances"]
    plain = predictor(image)["instances"]
    assert len(found) <= len(plain)
    best = found.scores.argmax()
    torch.testing.assert_close(found.pred_boxes.tensor[best], plain.pred_boxes.tensor[0])
    assert torch.equal(found.pred_masks[best : best + 1].tensor[0], plain.pred_masks[0])


def assert_same_views(found, expected):
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=0)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=0)
    assert torch.equal(found.pred_masks.tensor, expected.pred_masks.tensor)


@pytest.mark.parametrize("options", [{"tile": 64, "overlap": 0.4}, {"tta": True}], ids=["tiles", "tta"])
def test_the_config_of_an_evaluation_on_views_detects_on_them(nano_checkpoint, image, tmp_path, options):
    cfg = model_zoo.get_config(NANO)
    set_views(cfg, ViewOptions(**options))
    save_config(cfg, str(tmp_path / "config.yaml"))
    found = Predictor(tmp_path / "config.yaml", nano_checkpoint, device="cpu")(image)["instances"]
    assert_same_views(found, Predictor(NANO, nano_checkpoint, device="cpu", **options)(image)["instances"])
    other = Predictor(tmp_path / "config.yaml", nano_checkpoint, device="cpu", tile=50)(image)["instances"]
    assert_same_views(other, Predictor(NANO, nano_checkpoint, device="cpu", tile=50)(image)["instances"])
    assert len(other) != len(found)


def test_an_exported_file_is_run_on_the_views_of_the_config(monkeypatch, tmp_path):
    class Exported(torch.nn.Module):
        metadata = SimpleNamespace(class_names=["mug"], height=None, width=None, short_side=96, long_side=160)

        def __init__(self, path, device):
            super().__init__()

    monkeypatch.setattr(predictor_module, "ExportedDetector", Exported)
    cfg = model_zoo.get_config(NANO)
    set_views(cfg, ViewOptions(tile=64))
    save_config(cfg, str(tmp_path / "config.yaml"))
    assert Predictor(tmp_path / "config.yaml", "model.onnx", device="cpu").views == ViewOptions(tile=64)
    assert Predictor(tmp_path / "config.yaml", "model.onnx", device="cpu", tta=True).views == ViewOptions(tta=True)
    assert Predictor("model.onnx", device="cpu").views == ViewOptions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"batch_size": 0}, "batch_size should be 1 or more, got 0", id="batch"),
        pytest.param({"precision": "fp8"}, "precision=fp8: expected fp32, bf16, fp16", id="precision"),
        pytest.param({"tile": -1}, "tile should be a number of pixels", id="tile"),
        pytest.param({"overlap": 2}, "overlap should be a fraction", id="overlap"),
    ],
)
def test_invalid_options(nano_checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(NANO, nano_checkpoint, device="cpu", **options)


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"compile": True}], ids=["precision", "compile"])
def test_an_exported_file_is_run_as_it_is(tmp_path, options):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="precision and compile need a checkpoint, but .*model.onnx is exported"):
        Predictor(tmp_path / "model.onnx", device="cpu", **options)
