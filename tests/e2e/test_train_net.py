"""Train, evaluate and resume a small Mask R-CNN on a custom dataset, in one process and in two."""

import json
import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.e2e.conftest import data_overrides, run_python
from tests.e2e.test_resume import assert_same, load

CONFIG = "configs/shapes/mask_rcnn_flash_internimage_nano.py"
SHORT = [
    "train.max_iter=4",
    "train.eval_period=0",
    "train.log_period=1",
    "train.checkpointer.period=2",
    "dataloader.train.total_batch_size=2",
    "lr_multiplier.warmup_iters=2",
]


@pytest.fixture(scope="module")
def arguments(own_data):
    return ["--config-file", CONFIG, *SHORT, *data_overrides(own_data)]


@pytest.fixture(scope="module")
def trained(arguments, tmp_path_factory):
    """A short run, in a process of its own as a user starts it: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    done = run_python("train_net.py", *arguments, f"train.output_dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def figures(text):
    """The last figures of each task that were printed for pasting."""
    rows = re.findall(r"copypaste: ([-\d.nan,]+)$", text, re.MULTILINE)
    return rows[-2:]


def test_progress_is_printed(trained):
    _, text = trained
    line = next(line for line in text.splitlines() if "iter: 3" in line)
    for part in (
        "eta: 0:00:00",
        "total_loss:",
        "loss_rpn_cls:",
        "loss_mask:",
        "time:",
        "images/s:",
        "data_time:",
        "lr:",
        "max_mem:",
    ):
        assert part in line


def test_folder_holds_checkpoints_metrics_events_log_and_config(trained):
    folder, _ = trained
    names = {re.sub(r"(tfevents).*", r"\1", path.name) for path in folder.iterdir()}
    assert {
        "model_0000001.pth",
        "model_final.pth",
        "last_checkpoint",
        "metrics.json",
        "events.out.tfevents",
        "log.txt",
        "config.yaml",
    } <= names
    metrics = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [entry["iteration"] for entry in metrics if "total_loss" in entry] == [0, 1, 2, 3]
    assert "segm/AP50" in metrics[-1]


def test_validation_images_are_drawn_for_tensorboard(trained, own_data):
    folder, _ = trained
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    # The first two of the three images have no objects.
    (image,) = json.loads((own_data / "annotations/instances_val.json").read_text())["images"][2:]
    assert events.Tags()["images"] == [f"validation/{image['file_name'].removesuffix('.jpg')}"]
    assert [event.step for event in events.Images(events.Tags()["images"][0])] == [4]


def test_classes_are_those_of_the_annotations_and_in_the_checkpoint(trained, own_data):
    folder, _ = trained
    categories = json.loads((own_data / "annotations/instances_train.json").read_text())["categories"]
    checkpoint = load(folder / "model_final.pth")
    assert checkpoint["classes"] == [category["name"] for category in categories]
    assert len(checkpoint["model"]["roi_heads.box_predictor.cls_score.weight"]) == len(categories) + 1


def test_saved_checkpoint_evaluates_to_the_same_figures(train_net, arguments, trained, tmp_path):
    folder, text = trained
    done = train_net(
        *arguments, "--eval-only", f"train.init_checkpoint={folder}/model_final.pth", f"train.output_dir={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    assert figures(done.stdout) == figures(text)
    assert len(figures(text)) == 2
    report = (tmp_path / "report.html").read_text()
    assert "Evaluation on custom_test" in report
    assert "max_iter: 4" in report  # the config
    assert "CPU threads" in report  # the environment
    inference = {path.name for path in (tmp_path / "inference").iterdir()}
    assert inference == {"coco_instances_results.json", "evaluation.json", "config.yaml"}


def test_saved_config_is_a_config(train_net, trained, tmp_path):
    folder, text = trained
    done = train_net(
        "--config-file",
        folder / "config.yaml",
        "--eval-only",
        "train.report=false",
        f"train.init_checkpoint={folder}/model_final.pth",
        f"train.output_dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    assert figures(done.stdout) == figures(text)
    assert [path.name for path in tmp_path.iterdir()] == ["inference"]


def test_resumed_run_ends_with_the_same_weights(train_net, arguments, trained, tmp_path):
    folder, _ = trained
    for name in ("model_0000001.pth", "metrics.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    done = train_net(*arguments, "--resume", f"train.output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert_same(load(tmp_path / "model_final.pth"), load(folder / "model_final.pth"))


@pytest.mark.slow
def test_two_processes_train_one_model(arguments, tmp_path):
    # One image of the six has no objects and stays in: a process without boxes must not keep the other waiting.
    done = run_python(
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--standalone",  # a free port
        "train_net.py",
        *arguments,
        "dataloader.train.dataset.filter_empty=false",
        f"train.output_dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    assert len(figures(done.stdout)) == 2
    assert {"log.txt", "log.txt.rank1", "model_final.pth"} <= {path.name for path in tmp_path.iterdir()}
    assert all(torch.isfinite(value).all() for value in load(tmp_path / "model_final.pth")["model"].values())


def test_everything_a_step_can_do_at_once(train_net, arguments, tmp_path):
    done = train_net(
        *arguments,
        "train.max_iter=2",
        "train.amp.enabled=true",
        "train.accumulation_steps=2",
        "train.clip_grad.max_norm=0.1",
        "train.ema.enabled=true",
        "train.scale_to_batch_size=true",
        "model.backbone.bottom_up.with_cp=true",
        "model.backbone.bottom_up.drop_path_rate=0.1",
        f"train.output_dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    assert "Scaled from 4 to 2 images per step: learning rate 0.0005, 4 iterations, warm-up 4" in done.stdout
    checkpoint = load(tmp_path / "model_final.pth")
    assert checkpoint["iteration"] == 3
    assert any(not torch.equal(checkpoint["ema"][f"module.{name}"], value) for name, value in checkpoint["model"].items())
    assert '"grad_norm"' in (tmp_path / "metrics.json").read_text()
