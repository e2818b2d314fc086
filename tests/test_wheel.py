"""Every command works from an installed wheel, in a bare environment and outside the checkout."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import flash_internimage
from flash_internimage import _C
from flash_internimage.data.shapes import annotation_file, write_split
from tests.programs import Result, clean_environment

pytestmark = pytest.mark.slow

NANO = "mask_rcnn_flash_internimage_nano"


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in FLASH_INTERNIMAGE_WHEEL, or one of this checkout, built without compiling: its extension is the tests'."""
    if "FLASH_INTERNIMAGE_WHEEL" in os.environ:
        return Path(os.environ["FLASH_INTERNIMAGE_WHEEL"])
    folder = tmp_path_factory.mktemp("wheel")
    program = (
        "import sys; sys.path.insert(0, 'tools'); from pathlib import Path; import build_wheel; "
        "print(build_wheel.build(Path(sys.argv[1]), None, Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", program, str(folder), _C.__file__]
    done = subprocess.run(command, cwd=repository, env=clean_environment(), capture_output=True, text=True, check=True)
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, which sees the dependencies of this one, but not its editable install."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ["pip", "--python", str(python), "--disable-pip-version-check", "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", *install], env=clean_environment(), capture_output=True, check=True)
    # Files for `site` in these folders are not read, so that the finder of an editable install stays inactive.
    dependencies = dict.fromkeys(Path(find_spec(name).origin).parents[1] for name in ("detectron2", "torch", "fvcore"))
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in dependencies))
    return folder


@pytest.fixture(scope="module")
def run(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Run a program of the environment in a folder outside the checkout; a failure is an error."""
    folder = tmp_path_factory.mktemp("elsewhere")
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "DETECTRON2_DATASETS")
    environment = {name: value for name, value in clean_environment().items() if name not in hidden}

    def run(program: str, *argv: object) -> Result:
        command = [installed / "bin" / program, *map(str, argv)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{program} {' '.join(map(str, argv))}\n{done.stdout}\n{done.stderr}"
        return done

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def data(run: Callable[..., Result]) -> list[str]:
    """A few images of the shapes dataset, as ``data.*`` overrides."""
    for split, size in (("train", 4), ("val", 2)):
        write_split(run.folder / "mugs", split, size)
    return [
        f"data.{split}.{key}={value}"
        for split, folder in (("train", "train"), ("test", "val"))
        for key, value in (("json", f"mugs/{annotation_file('', folder)}"), ("images", f"mugs/{folder}"))
    ]


@pytest.fixture(scope="module")
def trained(run: Callable[..., Result], data: list[str]) -> Path:
    """Output folder of a training of two iterations."""
    short = ["train.max_iter=2", "train.eval_period=0", "dataloader.train.total_batch_size=2", "data.augmentation=none"]
    run("flash-internimage", "train", "--config-file", NANO, *data, *short, "train.device=cpu", "train.output_dir=run")
    return run.folder / "run"


@pytest.fixture(scope="module")
def evaluated(run: Callable[..., Result], trained: Path) -> Path:
    """Output folder of an evaluation of the trained weights."""
    weights = ["--weights", "run/model_final.pth"]
    run("flash-internimage", "eval", "--config-file", "run/config.yaml", *weights, "train.output_dir=evaluation")
    return run.folder / "evaluation"


def test_the_version_names_pytorch(wheel: Path) -> None:
    minor = ".".join(torch.__version__.split(".")[:2])
    assert wheel.name.startswith(f"flash_internimage-{flash_internimage.__version__}+pt{minor}.c")


def test_the_wheel_has_configs_projects_and_the_template(repository: Path, wheel: Path) -> None:
    packaged = set(zipfile.ZipFile(wheel).namelist())
    for path in (repository / "configs").rglob("*.py"):
        assert f"flash_internimage/model_zoo/configs/{path.relative_to(repository / 'configs')}" in packaged
    assert "flash_internimage/projects/dino/dino.py" in packaged
    assert "flash_internimage/evaluation/report.html.jinja" in packaged
    assert any(name.startswith("flash_internimage/_C") for name in packaged)


def test_the_package_is_that_of_the_wheel(run: Callable[..., Result], installed: Path) -> None:
    code = "import torch, flash_internimage, flash_internimage._C as c; print(flash_internimage.__file__, c.__file__)"
    for path in run("python", "-c", code).stdout.split():
        assert Path(path).is_relative_to(installed)


def test_help_and_env(run: Callable[..., Result], installed: Path) -> None:
    assert "commands:" in run("flash-internimage", "--help").stdout
    assert run("python", "-m", "flash_internimage", "--version").stdout.startswith("flash-internimage ")
    table = run("flash-internimage", "env").stdout
    assert f" in {installed}" in table
    assert "cannot be imported" not in table


def test_analyze(run: Callable[..., Result]) -> None:
    configs = [NANO, "dino_flash_internimage_nano"]
    printed = run("flash-internimage", "analyze", "--config-file", *configs, "--size", 64, 96).stdout
    assert [row.split(" | ")[0] for row in printed.splitlines()[2:]] == [f"| {name}" for name in configs]


def test_check_data(run: Callable[..., Result], data: list[str]) -> None:
    images = ["--json", f"mugs/{annotation_file('', 'train')}", "--images", "mugs/train"]
    assert "\n0 errors, " in run("flash-internimage", "check-data", *images, "--output", "check").stdout
    assert (run.folder / "check" / "grid.png").is_file()


def test_show_batch(run: Callable[..., Result], data: list[str]) -> None:
    run("flash-internimage", "show-batch", "--config-file", NANO, "--output", "batch", *data)
    assert (run.folder / "batch" / "batch.png").is_file()


def test_train_writes_a_checkpoint_and_a_config(trained: Path) -> None:
    assert {"model_final.pth", "config.yaml", "log.txt"} <= {path.name for path in trained.iterdir()}


def test_eval_report_compare_and_draw(run: Callable[..., Result], evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert "mask_rcnn" in page or "roi_heads" in page
    run("flash-internimage", "report", "evaluation", "--output", "again", "--threshold", "0.1")
    assert (run.folder / "again" / "report.html").is_file()
    assert "B - A" in run("flash-internimage", "compare", "evaluation", "evaluation").stdout
    images = ["--json", f"mugs/{annotation_file('', 'val')}", "--images", "mugs/val"]
    predictions = ["--predictions", "evaluation/inference/coco_instances_results.json"]
    run("flash-internimage", "draw", *images, *predictions, "--output", "drawn")
    # One image each, and all of them in one.
    assert len(list((run.folder / "drawn").iterdir())) == 3


def test_predict(run: Callable[..., Result], trained: Path) -> None:
    weights = ["--config-file", NANO, "--weights", "run/model_final.pth"]
    run("flash-internimage", "predict", *weights, "--source", "mugs/val", "--output", "found", "train.device=cpu")
    found = json.loads((run.folder / "found" / "detections.json").read_text())
    assert sorted(path.name for path in (run.folder / "found").glob("*.jpg")) == [i["drawn"] for i in found["images"]]


def test_convert(run: Callable[..., Result], trained: Path) -> None:
    run("flash-internimage", "convert", "run/model_final.pth", "published.safetensors", "--to", "published")
    run("flash-internimage", "convert", "published.safetensors", "back.pth")
    assert (run.folder / "back.pth").is_file()


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", "-m", "flash_internimage"]


@pytest.mark.parametrize(
    ("start", "processes"),
    [
        pytest.param(["flash-internimage", "train", "--num-gpus", "2"], 2, id="flags"),
        pytest.param(["python", *TORCHRUN, "train"], 1, id="torchrun"),
    ],
)
def test_launchers(run: Callable[..., Result], data: list[str], start: list[str], processes: int, tmp_path: Path) -> None:
    short = ["train.max_iter=1", "train.eval_period=0", "dataloader.train.total_batch_size=2", "data.augmentation=none"]
    run(*start, "--config-file", NANO, *data, *short, "train.device=cpu", f"train.output_dir={tmp_path}")
    assert (tmp_path / "model_final.pth").is_file()
    assert f"Process 0 of {processes} on cpu" in (tmp_path / "log.txt").read_text()
