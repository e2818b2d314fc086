"""Detection on images, a video and standard input, sources that cannot be read, and the files that are written."""

import io
import json
import signal
import sys

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from pycocotools.coco import COCO

from flash_internimage import Predictor, model_zoo
from flash_internimage.cli import predict as predict_command
from flash_internimage.engine.config import save_config
from flash_internimage.engine.views import set_views
from flash_internimage.inference import video, writer
from flash_internimage.views import ViewOptions

CONFIG = "configs/shapes/mask_rcnn_flash_internimage_nano.py"


def noise(height=40, width=60, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def predict(flash_internimage, nano_checkpoint, tmp_path):
    """Run the command; return its exit code, stdout and stderr, and the folder it wrote to."""

    def run(*argv, threshold="0.2"):
        folder = tmp_path / "out"
        flags = ["--config-file", CONFIG, "--weights", nano_checkpoint, "--output", folder, "--threshold", threshold]
        done = flash_internimage("predict", *flags, *argv, "train.device=cpu")
        return done.returncode, done.stdout, done.stderr, folder

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else None


def test_folder_of_images_some_of_which_are_none(predict, tmp_path, nano_checkpoint):
    folder = tmp_path / "my photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(noise()).save(folder / "a.png", exif=exif)
    Image.fromarray(noise(seed=1)).convert("L").save(folder / "a.jpg")
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:500])
    (folder / "text.png").write_text("no image")
    (folder / "notes.txt").write_text("neither")
    code, out, err, output = predict("--source", folder, "nowhere.jpg")
    assert code == 1
    skipped = [line for line in err.splitlines() if "flash-internimage predict: skipped" in line]
    assert len(skipped) == 3
    for text in ("broken.jpg: not a readable image (", "text.png: not a readable", "nowhere.jpg: No such file"):
        assert any(text in line for line in skipped)
    assert "1 file is neither an image nor a video" in err
    assert "2 of 5 sources, " in out
    assert names(output) == ["a.jpg", "a_2.jpg", "detections.json"]
    assert Image.open(output / "a_2.jpg").size == (320, 480)  # turned by a quarter, enlarged to be legible

    found = json.loads((output / "detections.json").read_text())
    assert [(i["file_name"], i["drawn"]) for i in found["images"]] == [
        (str(folder / "a.jpg"), "a.jpg"),
        (str(folder / "a.png"), "a_2.jpg"),
    ]
    assert [(i["height"], i["width"]) for i in found["images"]] == [(40, 60), (60, 40)]
    assert [c["name"] for c in found["categories"]] == ["mug", "spoon", "US$ fork"]
    expected = Predictor(CONFIG, nano_checkpoint, min_score=0.2, device="cpu")(folder / "a.png")["instances"]
    second = [a for a in found["annotations"] if a["image_id"] == 2]
    assert [a["score"] for a in second] == pytest.approx(expected.scores.tolist())
    assert [a["category_id"] - 1 for a in second] == expected.pred_classes.tolist()
    np.testing.assert_array_equal(mask_util.decode(second[0]["segmentation"]), expected.pred_masks[0].numpy())
    x, y, width, height = second[0]["bbox"]
    np.testing.assert_allclose([x, y, x + width, y + height], expected.pred_boxes.tensor[0].numpy(), atol=1e-4)


def test_detections_are_an_annotation_file(predict, tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    code, _, _, output = predict("--source", tmp_path / "a.png")
    assert code == 0
    coco = COCO(output / "detections.json")
    assert coco.getAnnIds(imgIds=coco.getImgIds(), catIds=coco.getCatIds()) == coco.getAnnIds()
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) > 10
    assert all(a["area"] == coco.annToMask(a).sum() for a in annotations)


def test_pictures_show_the_detections(predict, tmp_path):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    assert predict("--source", tmp_path / "a.png")[0] == 0
    with_objects = np.array(Image.open(tmp_path / "out/a.jpg"))
    assert (with_objects.max(axis=2) > 100).mean() > 0.02
    assert predict("--source", tmp_path / "a.png", threshold="0.9")[0] == 0
    assert np.array(Image.open(tmp_path / "out/a.jpg")).max() == 0
    assert json.loads((tmp_path / "out/detections.json").read_text())["annotations"] == []


def test_video(predict, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for value in (0, 60, 120):
        writer.write(np.full((48, 64, 3), [0, 0, value], np.uint8))  # OpenCV's red
    writer.release()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    code, _, err, output = predict("--source", tmp_path / "clip.avi", tmp_path / "broken.mp4", threshold="0.9")
    assert code == 1
    assert "broken.mp4: not a readable video" in err
    assert names(output) == ["clip.mp4", "detections.json"]
    images = json.loads((output / "detections.json").read_text())["images"]
    assert [(i["frame"], i["drawn"]) for i in images] == [(0, "clip.mp4"), (1, "clip.mp4"), (2, "clip.mp4")]
    written = cv2.VideoCapture(str(output / "clip.mp4"))
    assert written.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    frames = [written.read()[1] for _ in range(3)]
    assert not written.read()[0]
    assert frames[2][200, 200, 2] > 100
    assert frames[2][200, 200, 0] < 30


def write_moving_square(path):
    """A square that moves to the right, over six frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for step in range(6):
        frame = np.zeros((64, 96, 3), np.uint8)
        frame[20:44, 10 + 4 * step : 34 + 4 * step] = 255
        writer.write(frame)
    writer.release()


def test_tracked_objects_keep_their_ids(predict, tmp_path):
    pytest.importorskip("trackers")
    write_moving_square(tmp_path / "clip.avi")
    code, _, _, output = predict("--source", tmp_path / "clip.avi", "--track")
    assert code == 0
    annotations = json.loads((output / "detections.json").read_text())["annotations"]
    frames = {}
    for annotation in annotations:
        if "track_id" in annotation:
            frames.setdefault(annotation["track_id"], []).append(annotation["image_id"])
    assert max(map(len, frames.values())) == 5  # from the second frame on
    assert all(sorted(set(found)) == found for found in frames.values())  # once per frame
    assert all("track_id" not in annotation for annotation in annotations if annotation["image_id"] == 1)


class Camera:
    """A camera that outlasts the test, unless the test fails."""

    def __init__(self):
        self.frames = 30

    def read(self):
        self.frames -= 1
        return self.frames >= 0, np.zeros((48, 64, 3), np.uint8)

    get = staticmethod(lambda name: 0.0)
    release = staticmethod(lambda: None)


class InterruptedWriter:
    """A writer of OpenCV that receives Ctrl-C while it writes the second frame."""

    written = 0

    def __init__(self, *arguments):
        self.writer = REAL_WRITER(*arguments)

    def write(self, frame):
        InterruptedWriter.written += 1
        if InterruptedWriter.written == 2:
            signal.raise_signal(signal.SIGINT)
        self.writer.write(frame)

    def __getattr__(self, name):
        return getattr(self.writer, name)


REAL_WRITER = cv2.VideoWriter


@pytest.mark.usefixtures("interruptible")
def test_a_camera_until_it_is_interrupted(predict, tmp_path, monkeypatch):
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda number: Camera())
    InterruptedWriter.fourcc, InterruptedWriter.written = REAL_WRITER.fourcc, 0
    monkeypatch.setattr(video.cv2, "VideoWriter", InterruptedWriter)
    code, out, _, output = predict("--source", "0", threshold="0.9")
    monkeypatch.undo()
    assert code == 0
    assert names(output) == ["camera0.mp4", "detections.json"]
    assert "1 source, " in out
    images = json.loads((output / "detections.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["0"] * 2
    written = cv2.VideoCapture(str(output / "camera0.mp4"))
    assert [written.read()[0] for _ in range(3)] == [True, True, False]


@pytest.mark.usefixtures("interruptible")
def test_a_camera_that_is_interrupted_before_the_first_frame(predict, monkeypatch):
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda number: Camera())
    monkeypatch.setattr(writer, "draw_instances", lambda *_: signal.raise_signal(signal.SIGINT))
    code, _, _, output = predict("--source", "0", threshold="0.9")
    assert code == 130
    assert names(output) == ["detections.json"]
    assert json.loads((output / "detections.json").read_text())["images"] == []


def test_batches_give_the_same_detections(predict, tmp_path):
    for seed in range(5):
        Image.fromarray(noise(40 + 8 * (seed % 2), 60, seed)).save(tmp_path / f"{seed}.png")
    (tmp_path / "list.txt").write_text("\n".join(str(tmp_path / f"{seed}.png") for seed in range(5)))
    assert predict("--source", tmp_path / "list.txt")[0] == 0
    one_by_one = json.loads((tmp_path / "out/detections.json").read_text())
    assert predict("--source", tmp_path / "list.txt", "--batch-size", "3")[0] == 0
    batches = json.loads((tmp_path / "out/detections.json").read_text())
    assert batches["images"] == one_by_one["images"]
    assert len(batches["annotations"]) == len(one_by_one["annotations"])
    for ours, theirs in zip(batches["annotations"], one_by_one["annotations"], strict=True):
        assert ours["category_id"] == theirs["category_id"]
        # Batches sum in another order: some roundings of float32 in a network of 100 layers.
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=1e-2)


def test_tiles(predict, tmp_path):
    Image.fromarray(noise(100, 150)).save(tmp_path / "a.png")
    assert predict("--source", tmp_path / "a.png")[0] == 0
    whole = json.loads((tmp_path / "out/detections.json").read_text())["annotations"]
    assert predict("--source", tmp_path / "a.png", "--tile", "64", "--overlap", "0.25")[0] == 0
    tiled = json.loads((tmp_path / "out/detections.json").read_text())["annotations"]
    assert len(tiled) > len(whole)
    assert all(mask_util.decode(annotation["segmentation"]).shape == (100, 150) for annotation in tiled)


def test_tiles_of_the_config_are_announced(flash_internimage, nano_checkpoint, tmp_path):
    cfg = model_zoo.get_config("mask_rcnn_flash_internimage_nano")
    set_views(cfg, ViewOptions(tile=64))
    save_config(cfg, str(tmp_path / "config.yaml"))
    Image.fromarray(noise(100, 150)).save(tmp_path / "a.png")
    flags = ["--config-file", tmp_path / "config.yaml", "--weights", nano_checkpoint, "--output", tmp_path / "out"]
    announced = "flash-internimage predict: tiles of 64 pixels, from the config"
    for more, expected in (([], True), (["--tile", "80"], False), (["dataloader.test.mapper.tile=null"], False)):
        done = flash_internimage("predict", *flags, "--source", tmp_path / "a.png", *more, "train.device=cpu")
        assert done.returncode == 0, done.stderr
        assert (announced in done.stderr.splitlines()) == expected


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        pytest.param(["--overlap", "0.3"], 2, "--overlap needs --tile", id="overlap without tiles"),
        pytest.param(["--precision", "fp16"], 1, "precision=fp16: half precision needs a GPU", id="half precision on a CPU"),
    ],
)
def test_flags_that_do_not_fit(predict, tmp_path, flags, code, message):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    done, _, err, output = predict("--source", tmp_path / "a.png", *flags)
    assert (done, err.count("\n")) == (code, 1)
    assert message in err
    assert names(output) is None


def test_bfloat16_is_suggested_where_it_is_fast(predict, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_command, "has_fast_bfloat16", lambda: True)
    Image.fromarray(noise()).save(tmp_path / "a.png")
    assert "this processor has AMX: --precision bf16 is faster" in predict("--source", tmp_path / "a.png")[2]
    assert "AMX" not in predict("--source", tmp_path / "a.png", "--precision", "bf16")[2]


def test_standard_input(predict, monkeypatch):
    contents = io.BytesIO()
    Image.fromarray(noise()).save(contents, format="PNG")
    contents.seek(0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(contents))
    code, _, _, output = predict("--source", "-")
    assert code == 0
    assert names(output) == ["detections.json", "stdin.jpg"]


def test_a_run_that_is_stopped_leaves_whole_files(predict, monkeypatch, tmp_path):
    for name in "abc":
        Image.fromarray(noise()).save(tmp_path / f"{name}.png")
    draw = writer.draw_instances

    def stopped(image, *arguments):
        if stopped.calls == 1:
            raise KeyboardInterrupt
        stopped.calls += 1
        return draw(image, *arguments)

    stopped.calls = 0
    monkeypatch.setattr(writer, "draw_instances", stopped)
    code, _, _, output = predict("--source", tmp_path / "*.png")
    assert code == 130
    assert names(output) == ["a.jpg", "detections.json"]
    images = json.loads((output / "detections.json").read_text())["images"]
    assert [image["drawn"] for image in images] == ["a.jpg"]


def test_a_video_that_is_stopped_is_not_in_the_detections(predict, monkeypatch, tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    write_moving_square(tmp_path / "clip.avi")
    draw, calls = writer.draw_instances, []

    def stopped(image, *arguments):
        calls.append(image)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(image, *arguments)

    monkeypatch.setattr(writer, "draw_instances", stopped)
    code, _, _, output = predict("--source", tmp_path / "a.png", tmp_path / "clip.avi")
    assert code == 130
    assert names(output) == ["a.jpg", "detections.json"]
    images = json.loads((output / "detections.json").read_text())["images"]
    assert [image["drawn"] for image in images] == ["a.jpg"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param(["empty"], "no images or videos in this folder (other files: 1)", id="folder without images"),
        pytest.param(["nothing/*.jpg"], "no file matches this pattern", id="pattern"),
        pytest.param(["out/mine.jpg"], "holds an input", id="output folder of the inputs"),
    ],
)
def test_refused(predict, tmp_path, inputs, message):
    for folder in ("empty", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "empty/notes.txt").write_text("")
    Image.fromarray(noise()).save(tmp_path / "out/mine.jpg")
    before = (tmp_path / "out/mine.jpg").read_bytes()
    code, _, err, output = predict("--source", *[tmp_path / text for text in inputs])
    assert code == 1
    assert err.startswith("flash-internimage predict: error: --")
    assert message in err
    assert err.count("\n") == 1
    assert (tmp_path / "out/mine.jpg").read_bytes() == before
    assert names(output) == ["mine.jpg"]


def test_wrong_config_key_is_reported_as_in_training(predict, tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    code, _, err, output = predict("train.divice=cpu", "--source", tmp_path / "a.png")
    assert code == 1
    assert "did you mean train.device?" in err
    assert names(output) is None
