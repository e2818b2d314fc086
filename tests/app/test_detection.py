"""What the page computes from detections: filtering, drawing, the table, and videos that browsers play."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from flash_internimage.app.detection import COLUMNS, Detected, detect, draw_video, drawn, filtered, table
from flash_internimage.app.models import Models, published_models
from flash_internimage.inference import Predictor
from flash_internimage.inference.video import UnreadableVideo, Video, write_video

NANO = "mask_rcnn_flash_internimage_nano"


@pytest.fixture
def detected():
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.tensor([[1.0, 2, 20, 30], [5, 5, 10.06, 10], [30, 8, 50, 39]]))
    instances.scores = torch.tensor([0.9, 0.5, 0.3])
    instances.pred_classes = torch.tensor([2, 0, 2])
    return Detected(np.full((40, 60, 3), 128, np.uint8), instances, ["circle", "square", "star"])


@pytest.mark.parametrize(
    ("threshold", "classes", "scores"),
    [
        (0.0, [], [0.9, 0.5, 0.3]),
        (0.5, [], [0.9, 0.5]),
        (0.0, ["star"], [0.9, 0.3]),
        (0.4, ["star", "square"], [0.9]),
        (0.4, ["class of another detector"], [0.9, 0.5]),
        (1, [], []),
    ],
)
def test_filters_by_score_and_class(detected, threshold, classes, scores):
    assert [round(score, 6) for score in filtered(detected, threshold, classes).scores.tolist()] == scores


def test_the_table_has_a_row_for_each_detection(detected):
    rows = table(detected, 0.4, [])
    assert rows == [["star", 0.9, 1, 2, 20, 30], ["circle", 0.5, 5, 5, 10.1, 10]]
    assert len(COLUMNS) == len(rows[0])


def test_what_is_filtered_out_is_not_drawn(detected):
    everything, star, nothing = (drawn(detected, *choice) for choice in ((0, []), (0.8, []), (1, [])))
    assert (everything != star).any()
    assert (star != nothing).any()
    assert np.ptp(nothing) == 0


@pytest.fixture(scope="module")
def predictor(nano_checkpoint):
    return Predictor(NANO, nano_checkpoint, device="cpu", min_score=0.05)


def test_a_video_is_drawn_frame_by_frame(predictor, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (3, 64, 96, 3)).astype(np.uint8)
    write_video(tmp_path / "clip.mp4", iter(images), 10)
    progress = []
    result = draw_video(predictor, str(tmp_path / "clip.mp4"), tmp_path, 0.0, [], progress.append)
    assert result == tmp_path / "clip_detections.webm"
    assert cv2.VideoCapture(str(result)).get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"VP80")
    assert len(list(Video(str(result)))) == 3
    assert progress == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1]


def test_a_file_that_is_no_video(predictor, tmp_path):
    (tmp_path / "clip.mp4").write_text("text")
    with pytest.raises(UnreadableVideo, match=r"clip\.mp4: not a readable video"):
        draw_video(predictor, str(tmp_path / "clip.mp4"), tmp_path, 0.5, [], lambda part: None)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_detections_come_from_the_predictor(predictor):
    image = np.random.RandomState(0).randint(0, 256, (64, 96, 3)).astype(np.uint8)
    found = detect(predictor, image)
    assert found.class_names == predictor.class_names
    torch.testing.assert_close(found.instances.scores, predictor(image)["instances"].scores, rtol=0, atol=0)


def test_one_model_is_loaded_at_a_time():
    loaded = []

    def loader(name):
        return lambda: loaded.append(name) or name

    models = Models({name: loader(name) for name in ("a", "b")})
    assert models.names == ["a", "b"]
    assert loaded == []
    assert [models.get(name) for name in ("a", "a", "b", "a")] == ["a", "a", "b", "a"]
    assert loaded == ["a", "b", "a"]


def test_the_published_models_are_offered():
    assert len(published_models()) == 12
