"""Export from the command line: a verified file that predicts and evaluates like its checkpoint, also without torch."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from flash_internimage import Predictor, model_zoo
from flash_internimage.data.resize import resize_bilinear
from flash_internimage.export import verification, writing

DINO = "dino_flash_internimage_nano"
SMALL = (
    "model.backbone.channels=16",
    "model.backbone.depths=[1,1,1,1]",
    "model.backbone.groups=[1,2,4,8]",
    "model.transformer.embed_dim=32",
    "model.transformer.encoder.num_layers=1",
    "model.transformer.decoder.num_layers=1",
)

WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "detectron2", "flash_internimage"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, "examples")
import detect_onnx
import numpy as np
import onnxruntime
from PIL import Image

model, source, target = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
for found in detect_onnx.detect(session, np.asarray(Image.open(source)), threshold=0.0):
    print(found["name"], found["score"], *found["box"])
detect_onnx.main(model, source, target)
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small DINO with random weights and named classes: its config and its checkpoint."""
    from detectron2.config import LazyConfig, instantiate

    from flash_internimage.checkpoint import Checkpointer
    from flash_internimage.data import Categories

    folder = tmp_path_factory.mktemp("small")
    cfg = LazyConfig.apply_overrides(model_zoo.get_config(DINO), [*SMALL, "train.device=cpu"])
    torch.manual_seed(0)
    checkpointer = Checkpointer(instantiate(cfg.model), str(folder))
    checkpointer.add_checkpointable("classes", Categories.from_names(["mug", "spoon", "fork", "knife"]))
    checkpointer.save("model")
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """An image of the size to which images are resized."""
    file = tmp_path_factory.mktemp("image") / "image.png"
    pixels = np.random.RandomState(0).randint(0, 256, (128, 192, 3)).astype(np.uint8)
    pixels[20:80, 40:120] = 200
    Image.fromarray(pixels).save(file)
    return file


@pytest.mark.slow
def test_onnx_file(flash_internimage, small, image, tmp_path, repository):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    config, weights, file = small / "config.yaml", small / "model.pth", tmp_path / "model.onnx"
    done = flash_internimage("export", "--config-file", config, "--weights", weights, "--output", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("operators for onnxruntime: largest difference ")
    assert done.stdout.count(" 0 without a partner") == 3
    assert f"{file}: DINO, 4 classes, any size, " in done.stdout

    ours, theirs = (Predictor(*args, device="cpu") for args in ((config, weights), (file,)))
    assert theirs.class_names == ours.class_names == ["mug", "spoon", "fork", "knife"]
    expected, found = ours(image)["instances"], theirs(image)["instances"]
    assert found.image_size == (128, 192)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=1e-3)
    assert found.pred_classes.tolist() == expected.pred_classes.tolist()

    command = [sys.executable, "-c", WITHOUT_TORCH, file, image, tmp_path / "found.png"]
    alone = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    lines = [line.split() for line in alone.stdout.splitlines()]
    assert [line[0] for line in lines[:5]] == [ours.class_names[label] for label in expected.pred_classes[:5]]
    boxes = np.array([line[2:] for line in lines[:5]], float)
    np.testing.assert_allclose(boxes, expected.pred_boxes.tensor[:5], atol=1e-3)
    assert Image.open(tmp_path / "found.png").size == (192, 128)

    done = flash_internimage("predict", "--weights", file, "--source", image, "--output", tmp_path / "out", "--threshold", "0")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))
    assert len(written["annotations"]) == len(expected)


@pytest.mark.slow
def test_program_in_half_precision_for_two_images(flash_internimage, small, image, tmp_path, monkeypatch):
    # With random weights hundreds of scores are equal within the tolerance, and rounding decides which queries are selected.
    tolerance = dataclasses.replace(verification.tolerance_of("bf16"), unmatched=1.0)
    monkeypatch.setattr(verification, "tolerance_of", lambda precision: tolerance)
    file = tmp_path / "model.pt2"
    arguments = ["--config-file", small / "config.yaml", "--weights", small / "model.pth", "--output", file]
    done = flash_internimage("export", *arguments, "--batch", "2", "--precision", "bf16", "--size", "128", "192")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 x 3 x 128 x 192: ") == 2

    theirs = Predictor(file, device="cpu")
    theirs.model.train().eval()  # as an evaluation does
    assert theirs.model.metadata.precision == "bf16"
    weights = torch.export.load(file).state_dict
    assert {tensor.dtype for name, tensor in weights.items() if "offset" in name} == {torch.float32}
    assert torch.bfloat16 in {tensor.dtype for tensor in weights.values()}
    expected = Predictor(small / "config.yaml", small / "model.pth", device="cpu")(image)["instances"]
    torch.testing.assert_close(theirs(image)["instances"].scores, expected.scores, rtol=0, atol=32 * 2**-8)


def test_bfloat16_in_onnx_is_refused(flash_internimage, tmp_path):
    done = flash_internimage("export", "--config-file", DINO, "--output", tmp_path / "m.onnx", "--precision", "bf16")
    assert done.returncode == 1
    assert "an ONNX file should be in fp32 or fp16, got bf16" in done.stderr


def test_the_example_resizes_as_in_training(repository, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(str(repository / "examples"))
    monkeypatch.syspath_prepend(str(repository / "flash_internimage" / "export"))
    import detect_onnx

    image = np.random.RandomState(0).randint(0, 256, (37, 61, 3)).astype(np.uint8)
    for height, width in ((128, 211), (20, 33), (37, 61)):
        difference = detect_onnx.resize(image, height, width).astype(int) - resize_bilinear(image, height, width)
        assert np.abs(difference).max() <= 1  # fixed-point arithmetic


def test_a_file_that_differs_from_its_model_is_not_written(flash_internimage, small, tmp_path, monkeypatch):
    from flash_internimage.inference import exporting

    def wrong(path, runtime=None):
        return (lambda images, sizes: [field + 1 for field in detectors[0](images, sizes)]), metadata[0]

    detectors, metadata = [], []
    monkeypatch.setattr(exporting, "program_of", lambda detector, about: _remember(detector, about, detectors))
    monkeypatch.setattr(exporting, "write", lambda program, path, about: metadata.append(about))
    monkeypatch.setattr(verification, "load", wrong)
    file = tmp_path / "model.pt2"
    done = flash_internimage(
        "export", "--config-file", small / "config.yaml", "--weights", small / "model.pth", "--output", file
    )
    assert done.returncode == 1
    assert "the detections of the file should be those of the model" in done.stderr
    assert list(tmp_path.iterdir()) == []


def _remember(detector, about, detectors):
    detectors.append(detector)

    class Program:
        class graph_signature:
            user_outputs = ("boxes", "scores", "classes", "counts")

    return Program()


def test_a_missing_package_is_named(flash_internimage, small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    done = flash_internimage(
        "export", "--config-file", small / "config.yaml", "--weights", small / "model.pth", "--output", tmp_path / "m.onnx"
    )
    assert done.returncode == 1
    assert "the format onnx needs onnxscript, which is not installed; pip install onnx onnxscript onnxruntime" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "model.engine"], "--output model.engine: expected a name that ends in .onnx or .pt2"),
        (["--output", "model.onnx", "--format", "pt2"], "--output model.onnx: expected a name that ends in .onnx or .pt2"),
        (["--output", "model.onnx", "--aot"], "--aot: AOTInductor writes .pt2 files"),
        (["--output", "model.onnx", "--dynamic", "--size", "64", "96"], "not allowed with argument"),
    ],
    ids=["another suffix", "another format", "AOTInductor to ONNX", "dynamic and fixed"],
)
def test_arguments_that_contradict_each_other(flash_internimage, arguments, message):
    done = flash_internimage("export", "--config-file", DINO, *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_every_target_has_its_forms():
    assert set(writing.OPERATOR_FORMS) == {"onnxruntime", "openvino", "tensorrt"}
