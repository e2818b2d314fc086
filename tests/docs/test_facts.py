"""Figures, messages, paths and names that the documentation quotes exist in the code."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from flash_internimage import model_zoo
from flash_internimage.cli.main import COMMANDS
from tests.docs.blocks import code_spans

SOURCES = ("flash_internimage/**/*.py", "csrc/**/*.cpp", "setup.py", "train_net.py")


@pytest.fixture(scope="module")
def messages(repository: Path) -> str:
    """Return the text of all sources, with multi-line string literals joined."""
    text = "\n".join(file.read_text(encoding="utf-8") for pattern in SOURCES for file in repository.glob(pattern))
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_error_messages_that_are_headings_are_given_by_the_code(repository, messages):
    faq = (repository / "docs/faq.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (.*)$", faq, flags=re.MULTILINE)
    quoted = [span for heading in headings for span in re.findall(r"`([^`-]+)`", heading)]
    of_cuda = "no kernel image is available for execution on the device"
    assert of_cuda in quoted
    assert len(quoted) >= 6
    for span in set(quoted) - {of_cuda}:
        for fragment in re.split(r"…|\d+(?: classes)?", span):  # names and counted things vary
            assert fragment.strip() in messages, span


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("faq.md", "was built without CUDA kernels, got a CUDA tensor; install a CUDA compiler with"),
        ("faq.md", "lower optimizer.lr, set train.clip_grad.max_norm, or look at these images and their boxes"),
        ("faq.md", ", PyTorch sees "),
        ("custom_data.md", "re-initialized for another number of classes ("),
        ("custom_data.md", ", of them without objects "),
        ("custom_data.md", ", of them to train on "),
        ("custom_data.md", " with objects: "),
        ("overrides.md", "unknown config key "),
    ],
    ids=["CUDA kernels", "loss", "GPU", "classes", "images", "annotations", "grid", "key"],
)
def test_messages_in_blocks_are_given_by_the_code(repository, messages, page, message):
    assert message in " ".join((repository / "docs" / page).read_text(encoding="utf-8").split())
    assert message in messages


def test_the_site_has_every_page(repository):
    entries = OmegaConf.load(repository / "mkdocs.yml").nav
    listed = [page for entry in entries for page in entry.values()]
    assert sorted(listed) == sorted(page.name for page in (repository / "docs").glob("*.md"))


RECIPES = {
    "Mask R-CNN 1x, Cascade Mask R-CNN 1x": r"(mask_rcnn|cascade).*_1x_coco",
    "Mask R-CNN 3x, Cascade Mask R-CNN 3x": r"(mask_rcnn|cascade).*_3x_coco",
    "DINO T, S, B 1x": r"dino_.*_[tsb]_1x_coco",
    "DINO L 1x": r"dino_.*_l_1x_coco",
}


def test_batch_sizes_and_lengths_of_the_recipes(repository):
    page = (repository / "docs/training.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| ([^|]+) \| (\d+ \| [\d,]+) \|$", page, flags=re.MULTILINE))
    assert set(listed) == set(RECIPES)
    covered = []
    for label, pattern in RECIPES.items():
        for name in filter(re.compile(pattern).fullmatch, model_zoo.list()):
            cfg = model_zoo.get_config(name)
            assert listed[label] == f"{cfg.dataloader.train.total_batch_size} | {cfg.train.max_iter:,}", name
            covered.append(name)
    assert sorted(covered) == model_zoo.list()


def test_every_augmentation_preset_is_documented(repository):
    source = (repository / "flash_internimage/data/presets.py").read_text()
    presets = set(re.findall(r'^        "(\w+)": ', source, flags=re.MULTILINE))
    assert "none" in presets
    assert presets <= set(code_spans(repository / "docs/custom_data.md"))


def test_files_in_the_parity_tables_exist(repository):
    text = (repository / "docs/parity.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(files) > 15
    missing = [
        file for file in files if not any((root / file).is_file() for root in (repository, repository / "flash_internimage"))
    ]
    assert missing == []


def test_every_file_of_dino_is_in_its_readme(repository):
    text = (repository / "projects/dino/README.md").read_text(encoding="utf-8")
    sections = re.findall(r"^In `([\w/]+)/`.*?:\n\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    assert [folder for folder, _ in sections] == ["projects/dino/dino", "flash_internimage/modeling/detr"]
    for folder, table in sections:
        listed = {name for row in table.splitlines() for name in re.findall(r"`(\w+\.py)`", row.split("|")[1])}
        assert listed == {file.name for file in (repository / folder).glob("*.py")} - {"__init__.py"}


def _resolve(name: str) -> object:
    """Import a dotted name: a module, or an attribute of one."""
    if importlib.util.find_spec(name.rpartition(".")[0]) is None:
        raise ModuleNotFoundError(name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


def test_new_names_in_the_changelog_exist_and_old_ones_do_not(repository):
    text = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    renamed = re.findall(r"^\| `(flash_internimage[\w.]+)` \| `(flash_internimage[\w.]+)` \|$", text, flags=re.MULTILINE)
    assert len(renamed) > 20
    for old, new in renamed:
        _resolve(new)
        with pytest.raises((ModuleNotFoundError, AttributeError)):
            _resolve(old)


def test_commands_in_the_changelog_and_the_readme_exist(repository):
    changelog = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`flash-internimage ([a-z-]+)", changelog)) <= set(COMMANDS)
    assert sorted(re.findall(r"^\| `([a-z-]+)` \|", readme, flags=re.MULTILINE)) == sorted(COMMANDS)


def test_every_folder_of_the_package_is_in_the_table_for_newcomers(repository):
    listed = set(re.findall(r"`([\w/]+)/`", (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    package = {f"flash_internimage/{file.parent.name}" for file in (repository / "flash_internimage").glob("*/__init__.py")}
    assert package - listed == {"flash_internimage/projects"}  # makes projects/ importable
    assert all((repository / folder).is_dir() for folder in listed if "/" in folder)
