"""Sharing a detector: files in a folder, an upload to a hub on localhost, and loading it again."""

import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open

from flash_internimage import Predictor, model_zoo
from flash_internimage.checkpoint import Checkpointer
from flash_internimage.checkpoint.fingerprint import weights_sha256
from flash_internimage.data import Categories
from flash_internimage.engine.config import load_config, save_config
from tests.inference.fake_hub import serving
from tests.programs import hub_environment, run_code

NANO = "mask_rcnn_flash_internimage_nano"
KEYS = {"json": "/data.json", "images": ""}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, evaluated):
    """Output folder of a run on the shapes, with its config, a random checkpoint and its evaluation."""
    folder = tmp_path_factory.mktemp("run")
    cfg = model_zoo.get_config(NANO)
    cfg.train.output_dir = str(folder)
    cfg.train.init_checkpoint = "/home/someone/weights.pth"
    cfg.data.train.json = "/home/someone/train.json"
    cfg.dataloader.evaluator.output_dir = "/home/someone/inference"
    cfg.train.mlflow.tracking_uri = "https://someone:secret@mlflow.example"
    cfg.train.mlflow.experiment = "secret product"
    cfg.train.wandb.update(enabled=True, project="secret team")
    save_config(cfg, str(folder / "config.yaml"))
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    checkpointer = Checkpointer(model, str(folder))
    names = read_names(evaluated)
    checkpointer.add_checkpointable("classes", Categories.from_names(names))
    checkpointer.save("model_final")
    shutil.copytree(evaluated / "inference", folder / "inference")
    evaluation = folder / "inference/evaluation.json"
    content = {**json.loads(evaluation.read_text()), "weights_sha256": weights_sha256(model.state_dict())}
    evaluation.write_text(json.dumps(content))
    return folder


def read_names(evaluated):
    from flash_internimage.evaluation.report import load

    return load(evaluated).names


@pytest.fixture(scope="module")
def image():
    return np.random.RandomState(0).randint(0, 255, (90, 120, 3), np.uint8)


def detections(predictor, image):
    found = predictor(image)["instances"]
    return found.pred_boxes.tensor, found.scores, found.pred_classes


def test_folder_has_weights_config_and_card_and_loads_again(flash_internimage, run_folder, evaluated, image, tmp_path):
    target = tmp_path / "my-detector"
    done = flash_internimage("push", target, "--weights", run_folder / "model_final.pth", "--license", "apache-2.0")
    assert (done.returncode, done.stderr) == (0, "")
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert {"README.md", "config.yaml", "model.safetensors", "images/1.jpg"} <= files
    assert all(name in done.stdout for name in files)

    with safe_open(target / "model.safetensors", "pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    before = torch.load(run_folder / "model_final.pth", weights_only=True)["model"]
    assert saved.keys() == before.keys()
    assert all(torch.equal(saved[name], before[name]) for name in before)

    text = (target / "config.yaml").read_text()
    assert not any(word in text for word in ("someone", "secret"))
    assert load_config(str(target / "config.yaml")).train.wandb == model_zoo.get_config(NANO).train.wandb
    assert str(run_folder) not in text
    assert load_config(str(target / "config.yaml")).model.roi_heads.num_classes == 4  # as data

    card = ModelCard.load(target / "README.md")
    names = read_names(evaluated)
    assert card.data.to_dict()["license"] == "apache-2.0"
    assert card.data.to_dict()["pipeline_tag"] == "object-detection"
    assert {result.metric_name for result in card.data.eval_results} == {"box AP", "mask AP"}
    assert all(name in card.text for name in [*names, "| box |", "images/1.jpg", 'Predictor("my-detector")'])

    shared, original = (
        Predictor(target, device="cpu"),
        Predictor(str(run_folder / "config.yaml"), run_folder / "model_final.pth"),
    )
    assert shared.class_names == names
    Image.fromarray(image).save(tmp_path / "image.png")
    source = ["--source", tmp_path / "image.png", "--threshold", "0.2", "train.device=cpu"]
    done = flash_internimage("predict", "--config-file", target, "--output", tmp_path / "shared", *source)
    assert done.returncode == 0, done.stderr
    named = ["--config-file", run_folder / "config.yaml", "--weights", run_folder / "model_final.pth"]
    assert flash_internimage("predict", *named, "--output", tmp_path / "named", *source).returncode == 0
    found, expected = (json.loads((tmp_path / name / "detections.json").read_text()) for name in ("shared", "named"))
    assert found["annotations"] == expected["annotations"] != []
    for found, expected in zip(detections(shared, image), detections(original, image), strict=True):
        assert torch.equal(found, expected)


def test_dry_run_lists_the_files_and_writes_nothing(flash_internimage, run_folder, tmp_path):
    argv = ["--weights", run_folder / "model_final.pth", "--images", 0, "--dry-run"]
    for target in (tmp_path / "new", "hf://me/my-detector"):
        done = flash_internimage("push", target, *argv)
        assert done.returncode == 0, done.stderr
        assert [line.split()[0] for line in done.stdout.splitlines()[:3]] == ["README.md", "config.yaml", "model.safetensors"]
        assert done.stdout.endswith(f"{target}: nothing was uploaded or written (--dry-run)\n")
    assert not (tmp_path / "new").exists()


def test_only_an_evaluation_of_the_same_weights_is_shared(flash_internimage, tmp_path):
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (100, 150, 3)).astype(np.uint8)).save(tmp_path / "1.png")
    square = {"bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 100, "width": 150}],
        "categories": [{"id": 1, "name": "mug"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **square}],
    }
    (tmp_path / "data.json").write_text(json.dumps(content))
    run = tmp_path / "run"
    data = [f"data.{split}.{key}={tmp_path}{name}" for split in ("train", "test") for key, name in KEYS.items()]
    short = ["train.max_iter=2", "train.eval_period=1", "train.ema.enabled=true", "dataloader.train.total_batch_size=1"]
    workers = ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "train.device=cpu"]
    trained = flash_internimage("train", "--config-file", NANO, f"train.output_dir={run}", *data, *short, *workers)
    assert trained.returncode == 0, trained.stderr
    assert json.loads((run / "model_best.json").read_text())["iteration"] == 0  # an AP of 0 each time: the first is the best

    last = flash_internimage("push", tmp_path / "last", "--weights", run / "model_final.pth")
    assert (last.returncode, last.stderr) == (0, "")
    assert "## Accuracy" in (tmp_path / "last/README.md").read_text()
    best = flash_internimage("push", tmp_path / "best", "--weights", run / "model_best.pth")
    assert (best.returncode, best.stderr) == (0, "")
    assert f"{run} holds no evaluation of model_best.pth" in best.stdout
    assert "## Accuracy" not in (tmp_path / "best/README.md").read_text()
    argv = ["--weights", run / "model_best.pth", "--evaluation", run]
    wrong = flash_internimage("push", tmp_path / "wrong", *argv)
    assert (wrong.returncode, "evaluates other weights than those of the checkpoint" in wrong.stderr) == (1, True)

    argv = ["--weights", run / "model_best.pth", f"train.output_dir={run}", "train.report=false"]
    assert flash_internimage("eval", "--config-file", run / "config.yaml", *argv).returncode == 0
    again = flash_internimage("push", tmp_path / "again", "--weights", run / "model_best.pth")
    assert (again.returncode, "## Accuracy" in (tmp_path / "again/README.md").read_text()) == (0, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "-1"], "argument --images: expected 0 or more, got -1"),
        (["--license", "Apache 2.0"], "argument --license: expected an identifier in lowercase, such as apache-2.0"),
    ],
)
def test_wrong_argument(flash_internimage, run_folder, flags, message):
    done = flash_internimage("push", "hf://me/my-detector", "--weights", run_folder / "model_final.pth", *flags)
    assert (done.returncode, message in done.stderr) == (2, True)


PUSH = "import sys; from flash_internimage.cli.main import main; sys.exit(main(['push', *sys.argv[1:]]))"
PREDICT = PUSH.replace("push", "predict")
LOAD = """
import sys, torch
from flash_internimage import Predictor
predictor = Predictor(sys.argv[1], device="cpu")
print(predictor.class_names, sum(tensor.double().sum().item() for tensor in predictor.model.state_dict().values()))
"""


def test_upload_to_a_hub_and_download(run_folder, evaluated, image, tmp_path):
    image_file = tmp_path / "image.png"
    Image.fromarray(image).save(image_file)
    with serving() as hub:
        environment = {**hub_environment(hub.url, tmp_path), "OMP_NUM_THREADS": "1"}
        argv = ["hf://me/my-detector", "--weights", run_folder / "model_final.pth", "--images", 1]
        refused = run_code(PUSH, *argv, environment=environment)
        line = refused.stderr.splitlines()[-1]  # after warnings of detectron2
        assert (refused.returncode, line.split(":")[0]) == (1, "flash-internimage push")
        assert "hf auth login" in line
        done = run_code(PUSH, *argv, "--private", environment={**environment, "HF_TOKEN": hub.token})
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"{hub.url}/me/my-detector\n")
        files = hub.repositories["me/my-detector"]
        assert {"README.md", "config.yaml", "model.safetensors", "images/1.jpg"} <= set(files)
        assert hub.private == {"me/my-detector"}
        assert hub.commits == ["Upload a detector with flash-internimage"]
        assert 'Predictor("hf://me/my-detector")' in files["README.md"].decode()

        argv = ["--source", image_file, "--threshold", 0.2, "--output", tmp_path / "found", "train.device=cpu"]
        found = run_code(PREDICT, "--config-file", "hf://me/my-detector", *argv, environment=environment)
        assert (found.returncode, "1 source, " in found.stdout) == (0, True), found.stderr

        loaded = run_code(LOAD, "hf://me/my-detector", environment=environment)
        assert loaded.returncode == 0, loaded.stderr
        weights = torch.load(run_folder / "model_final.pth", weights_only=True)["model"]
        total = sum(tensor.double().sum().item() for tensor in weights.values())
        assert loaded.stdout.split("\n")[-2] == f"{read_names(evaluated)} {total}"
        missing = run_code(PREDICT, "--config-file", "hf://me/other", *argv, environment=environment)
        assert (missing.returncode, "the hub has no public repository me/other" in missing.stderr) == (1, True)
        missing = run_code(LOAD, "hf://me/other", environment=environment)
        assert "the hub has no public repository me/other" in missing.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["hf://me", "--weights", "{run}/model_final.pth"], "hf://me: expected hf://OWNER/NAME, without a file"),
        (["hf://me/a/b.pth", "--weights", "{run}/model_final.pth"], "expected hf://OWNER/NAME, without a file"),
        (
            ["{tmp}/new", "--weights", "{tmp}/model.pth"],
            "there is no config.yaml beside it; name the config with --config",
        ),
        (
            ["{run}", "--weights", "{run}/model_final.pth", "--images", "0"],
            "exists and is not an empty folder",
        ),
        (
            ["{tmp}/new", "--weights", "{nano}", "--config-file", "{run}/config.yaml", "--evaluation", "{run}"],
            "evaluates other classes",
        ),
    ],
)
def test_mistake_is_one_sentence(flash_internimage, run_folder, nano_checkpoint, tmp_path, argv, message):
    done = flash_internimage("push", *(text.format(run=run_folder, tmp=tmp_path, nano=nano_checkpoint) for text in argv))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr
    assert not (tmp_path / "new").exists()
