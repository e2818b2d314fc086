"""Each mistake: one line that says what and where, exit code 1, and no output folder left behind."""

import json
import shutil
import sys

import pytest
import torch
from detectron2.config import instantiate

from flash_internimage.checkpoint import Checkpointer
from flash_internimage.data import Categories
from flash_internimage.data.shapes import annotation_file
from flash_internimage.engine.config import load_config
from tests.e2e.conftest import data_overrides

TINY = "tests/engine/tiny_config.py"
NANO = "configs/shapes/mask_rcnn_flash_internimage_nano.py"
COCO = "configs/coco/mask_rcnn_flash_intern_image_t_fpn_1x_coco.py"


@pytest.fixture
def refused(train_net, tmp_path):
    """Run, expect a refusal, and return its one line."""

    def refused(config, *overrides, started=False):
        folder = tmp_path / "output"
        done = train_net("--config-file", config, f"train.output_dir={folder}", *overrides)
        assert done.returncode == (2 if "--overwrite" in overrides else 1)  # arguments that contradict each other
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("train_net.py: error: ")
        assert folder.exists() == started
        return done.stderr.removeprefix("train_net.py: error: ").strip()

    return refused


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        pytest.param(
            "configs/shapes/mask_rcnn_nano.py", [], "did you mean configs/shapes/mask_rcnn_flash_int", id="config name"
        ),
        pytest.param(TINY, ["train.max_itr=3"], "did you mean train.max_iter?", id="key"),
        pytest.param(COCO, ["model.backbone.bottom_up.drop_path=0.3"], "bottom_up.drop_path_rate?", id="argument of the model"),
        pytest.param(TINY, ["train.max_iter=many"], "expected a value like 8 (an integer)", id="type"),
        pytest.param(TINY, ["train.amp.enabled=true", "train.amp.dtype=fp16"], "use train.amp.dtype=bf16", id="fp16 on a CPU"),
        pytest.param(TINY, ["train.max_iter=0"], "train.max_iter=0: expected 1 or more", id="no iterations"),
        pytest.param(TINY, ["train.max_iter=-1"], "train.max_iter=-1: expected 1 or more", id="negative iterations"),
        pytest.param(TINY, ["train.log_period=0"], "train.log_period=0: expected 1 or more", id="log period"),
        pytest.param(TINY, ["optimizer.lr=nan"], "optimizer.lr=nan: expected a finite number", id="learning rate"),
        pytest.param(NANO, ["dataloader.train.num_workers=-1"], "num_workers=-1: expected 0 or more", id="workers"),
        pytest.param(TINY, ["--resume", "--overwrite"], "--resume continues the run that --overwrite", id="two ways"),
        pytest.param(TINY, ["train.accumulation_steps=5"], "expected 1 to 4", id="more parts than images"),
        pytest.param(TINY, ["train.device=cuda:99"], "train.device=cuda:99: process 0", id="GPU that is not there"),
        pytest.param(TINY, ["train.best_checkpoint.mode=most"], "expected max or min", id="choice"),
        pytest.param(TINY, ["train.init_checkpoint=nowhere.pth"], "checkpoint nowhere.pth: no such file", id="checkpoint"),
        pytest.param(NANO, ["model.roi_heads.num_classes=80"], "the model has 80 classes, but", id="number of classes"),
        pytest.param(
            NANO,
            ["dataloader.train.dataset.names=shape_train"],
            "did you mean shapes_train or ",
            id="name of a dataset",
        ),
        pytest.param(
            NANO,
            ["data.train.json=a.json", "data.train.images=a", "data.test.json=a.json", "data.test.images=a"],
            "annotation file a.json does not exist",
            id="annotation file",
        ),
        pytest.param(NANO, ["data.train.json=a.json"], "data.train.json is given, but data.train.images is not", id="half"),
    ],
)
def test_command_line(refused, config, overrides, message):
    assert message in refused(config, *overrides)


def test_weights_and_biases_that_is_not_installed(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "needs wandb, which is not installed; pip install wandb" in refused(TINY, "train.wandb.enabled=true")


def test_coco_that_is_not_there(refused, monkeypatch, tmp_path):
    message = refused(COCO, "train.device=cpu")
    assert "datasets/coco" in message
    assert "DETECTRON2_DATASETS" in message


def test_output_folder_that_cannot_be_written(train_net, tmp_path):
    (tmp_path / "file").write_text("")
    done = train_net("--config-file", TINY, f"train.output_dir={tmp_path}/file/run")
    assert done.returncode == 1
    assert f"train.output_dir={tmp_path}/file/run: cannot be written to" in done.stderr


@pytest.fixture
def broken_data(own_data, tmp_path):
    """A copy of the data to spoil: its overrides, the training annotations as a function to edit, and its folder."""
    root = tmp_path / "own data"
    shutil.copytree(own_data, root)
    path = annotation_file(root, "train")

    def edit(change):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return data_overrides(root), edit, root


def test_image_folder(refused, broken_data):
    overrides, _, root = broken_data
    (root / "train").rename(root / "elsewhere")
    assert f"{root}/train" in refused(NANO, *overrides)


def test_image_file_is_named_with_what_wants_it(refused, broken_data):
    overrides, _, root = broken_data
    (root / "train/000000000003.jpg").unlink()
    assert f"{root}/train/000000000003.jpg, referenced by image 3" in refused(NANO, *overrides)


def test_truncated_annotations(refused, broken_data):
    overrides, _, root = broken_data
    path = annotation_file(root, "train")
    path.write_text(path.read_text()[:1000])
    assert f"annotation file {path} should be JSON, but it is truncated" in refused(NANO, *overrides)


def test_annotations_without_categories(refused, broken_data):
    overrides, edit, _ = broken_data
    edit(lambda content: content.pop("categories"))
    assert "there are no categories" in refused(NANO, *overrides)


def test_unknown_category(refused, broken_data):
    overrides, edit, _ = broken_data
    edit(lambda content: content["annotations"][0].update(category_id=5))
    assert "with category 5; categories are 7 (" in refused(NANO, *overrides)


def test_other_categories_in_the_validation_data(refused, broken_data):
    overrides, edit, _ = broken_data
    edit(lambda content: content["categories"][0].update(name="star"))
    assert "training and test data must have the same categories, but category 7 is 'star'" in refused(NANO, *overrides)


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_image(refused, broken_data, workers):
    overrides, _, root = broken_data
    for path in (root / "train").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    short = ["dataloader.train.total_batch_size=1", f"dataloader.train.num_workers={workers}"]
    message = refused(NANO, *overrides, *short, started=True)
    assert f"{root}/train/0000000000" in message
    assert "is not a readable image" in message


def test_degenerate_boxes_are_dropped_with_a_count(train_net, broken_data, tmp_path):
    overrides, edit, _ = broken_data

    def flatten_two(content):
        for annotation in [entry for entry in content["annotations"] if not entry["iscrowd"]][:2]:
            annotation["bbox"][2] = 0

    edit(flatten_two)
    short = ["train.max_iter=1", "dataloader.train.total_batch_size=1", "train.eval_period=0"]
    done = train_net("--config-file", NANO, *overrides, *short, f"train.output_dir={tmp_path}/output")
    assert done.returncode == 0, done.stderr
    assert "Dropped 2 boxes with a side below one pixel or outside the image" in done.stdout


@pytest.fixture
def checkpoint(tmp_path):
    def save(content):
        path = tmp_path / "model.pth"
        torch.save(content, path) if not isinstance(content, bytes) else path.write_bytes(content)
        return f"train.init_checkpoint={path}"

    return save


def test_file_that_is_no_checkpoint(refused, checkpoint):
    assert "model.pth: not a file of torch.save" in refused(TINY, checkpoint(b"not a checkpoint at all"))


def test_checkpoint_of_another_model(refused, checkpoint):
    message = refused(TINY, checkpoint({"model": torch.nn.Sequential(torch.nn.Linear(2, 2)).state_dict()}))
    assert "this file belongs to another model" in message
    assert "unexpected" in message


def test_checkpoint_that_would_run_code(refused, checkpoint, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    assert "model.pth" in refused(TINY, checkpoint({"model": Payload()}))
    assert not (tmp_path / "ran").exists()


def test_evaluation_needs_a_checkpoint(refused):
    assert "no checkpoint given: name one with train.init_checkpoint=PATH" in refused(TINY, "--eval-only")


def test_evaluation_with_other_classes(refused, own_data, tmp_path):
    names = [category["name"] for category in json.loads(annotation_file(own_data, "val").read_text())["categories"]]
    model = instantiate(load_config(NANO).model)
    Checkpointer(model, str(tmp_path), classes=Categories.from_names(["star", *names[1:]])).save("model")
    message = refused(NANO, "--eval-only", *data_overrides(own_data)[2:], f"train.init_checkpoint={tmp_path}/model.pth")
    assert f"the checkpoint was trained with other classes: it has 'star' as class 0, the data has '{names[0]}'" in message


def test_loss_that_becomes_nan(refused, tmp_path):
    message = refused(TINY, "model.bad_iteration=5", started=True)
    assert message.startswith("loss not finite: loss_box is nan at iteration 5, on the images images/000020.png, images/000021")
    assert (tmp_path / "output/last_checkpoint").read_text() == "model_0000003.pth"
    assert not (tmp_path / "output/model_final.pth").exists()
