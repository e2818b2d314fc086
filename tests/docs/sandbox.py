"""A folder like a checkout with small datasets and models, in which the commands of the documentation run within seconds.

Nothing is downloaded: ``hf://`` paths resolve to checkpoints with random weights in the published format.
"""

from __future__ import annotations

import contextlib
import json
import logging
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from flash_internimage import model_zoo
from flash_internimage.checkpoint import hub
from flash_internimage.checkpoint.published import to_published
from flash_internimage.data.shapes import annotation_file, write_split
from flash_internimage.engine import config as engine_config
from flash_internimage.model_zoo import zoo
from tests.data.formats.written import write_coco, write_voc, write_yolo

_LINKED = ("benchmarks", "docs", "projects", "setup.py", "tests", "tools", "train_net.py")


def shrink(cfg: DictConfig) -> DictConfig:
    """Reduce a Mask R-CNN or DINO config in place so that it runs within seconds on a CPU, whatever its overrides say."""
    model = cfg.model
    backbone = model.backbone.get("bottom_up", model.backbone)
    if "groups" in backbone:  # FlashInternImage
        backbone.update(channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8], drop_path_rate=0.0)
    if "transformer" in model:
        model.transformer.embed_dim = 32
        model.transformer.query_selection.num_queries = 20
        model.transformer.encoder.num_layers = model.transformer.decoder.num_layers = 1
        model.transformer.decoder.ffn_dim = 32
    else:
        model.backbone.out_channels = 16
        model.proposal_generator.post_nms_topk = [20, 20]
        model.roi_heads.batch_size_per_image = 8
        model.roi_heads.box_head.fc_dims = [16, 16]
        if model.roi_heads.mask_head is not None:
            model.roi_heads.mask_head.conv_dims = [16] * 5
    for split in ("train", "test"):
        cfg.dataloader[split].num_workers = 0
        for augmentation in cfg.dataloader[split].mapper.augmentations:
            if "short_sides" in augmentation:
                augmentation.update(short_sides=[64], long_side=96)
    cfg.dataloader.train.total_batch_size = 2
    cfg.train.update(max_iter=1, eval_period=0, device="cpu", reference_batch_size=2, accumulation_steps=1)
    return cfg


def write_checkpoint(path: str, folder: Path) -> str:
    """Write random weights in the published format to a file, in place of the download of ``path``, and return its path."""
    file = folder / path.rsplit("/", 1)[-1]
    if file.exists():
        return str(file)
    names = {model_zoo.get_checkpoint(name): name for name in model_zoo.list()}
    if path in names:
        state = to_published(instantiate(zoo.get_config(names[path]).model).state_dict())
    elif "/flash_intern_image_t_" in path:
        small = zoo.get_config("mask_rcnn_flash_intern_image_t_fpn_1x_coco")
        state = instantiate(small.model.backbone.bottom_up).state_dict()
    else:
        raise NotImplementedError(f"no substitute for {path}")
    folder.mkdir(exist_ok=True)
    torch.save({"state_dict": state, "meta": {}}, file)
    return str(file)


def write_data(root: Path) -> None:
    """Write a dataset of two classes (ids 7 and 42) as ``mugs/train.json``, ``mugs/train/``, ... and again without ``mugs``."""
    for split, size in (("train", 6), ("val", 3)):
        write_split(root / "mugs", split, size)
        shapes = annotation_file(root / "mugs", split)
        content = json.loads(shapes.read_text())
        content["categories"] = [category for category in content["categories"] if category["id"] in (7, 42)]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] in (7, 42)]
        shapes.unlink()
        (root / "mugs" / f"{split}.json").write_text(json.dumps(content))
        shutil.copy(root / "mugs" / f"{split}.json", root / f"{split}.json")
        shutil.copytree(root / "mugs" / split, root / split)


@pytest.fixture
def sandbox(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the folder and make it the working directory."""
    for name in _LINKED:
        (tmp_path / name).symlink_to(repository / name)
    shutil.copytree(repository / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    write_data(tmp_path)
    write_coco(tmp_path / "coco", 6, 3)
    write_yolo(tmp_path / "coco", tmp_path / "yolo")
    write_voc(tmp_path / "coco", tmp_path / "voc")
    (tmp_path / "photos").mkdir()
    shutil.copy(next((tmp_path / "val").glob("*.jpg")), tmp_path / "photos" / "street.jpg")
    shutil.copy(next((tmp_path / "val").glob("*.jpg")), tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@contextlib.contextmanager
def small_models(folder: Path) -> Iterator[None]:
    """Shrink configs when they are loaded, and write checkpoints to ``folder`` instead of downloading them."""
    apply_overrides = engine_config.apply_overrides

    def apply_and_shrink(cfg: DictConfig, overrides: Sequence[str]) -> None:
        apply_overrides(cfg, overrides)
        shrink(cfg)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_config, "apply_overrides", apply_and_shrink)
        patch.setattr(zoo, "LazyConfig", SimpleNamespace(load=lambda path: shrink(LazyConfig.load(path))))
        patch.setattr(hub, "fetch", lambda path: write_checkpoint(path, folder / "hub"))
        yield


@pytest.fixture
def run_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[[Sequence[str]], None]:
    """Run ``python WORDS...`` or ``flash-internimage WORDS...`` in this process, which saves the seconds of the imports."""

    def run(words: Sequence[str]) -> None:
        setup_logger.cache_clear()  # detectron2 caches a logger that writes to the stdout of its first call
        for name in ("detectron2", "fvcore", "flash_internimage"):
            logging.getLogger(name).handlers.clear()
        capsys.readouterr()
        with monkeypatch.context() as patch:
            modules = set(sys.modules)
            patch.setattr(sys, "path", list(sys.path))
            try:
                _execute(words, patch)
            except SystemExit as error:
                if error.code not in (None, 0):
                    output = capsys.readouterr()
                    pytest.fail(f"exit code {error.code}\n{output.out[-3000:]}\n{output.err[-3000:]}")
            finally:
                for name in set(sys.modules) - modules:  # modules beside a program have names that others may use
                    installed = "site-packages" in str(getattr(sys.modules[name], "__file__", ""))  # its submodules stay
                    if "." not in name and not name.startswith("_") and not installed:
                        del sys.modules[name]

    return run


def _execute(words: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    program, *arguments = words
    if program == "flash-internimage":
        script = Path(sys.executable).with_name(program)
        if not script.is_file():
            pytest.fail(f"{program} is not installed beside {sys.executable}; run make install")
        patch.setattr(sys, "argv", [str(script), *arguments])
        runpy.run_path(str(script), run_name="__main__")
    elif arguments[0] == "-m":
        sys.modules.pop(arguments[1], None)  # runpy warns if the module has been imported
        patch.setattr(sys, "argv", arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        patch.setattr(sys, "argv", arguments)
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        runpy.run_path(arguments[0], run_name="__main__")
