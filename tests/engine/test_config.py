"""Loading of configs, and errors for missing, invalid and incomplete files."""

import builtins

import pytest
from omegaconf import OmegaConf

from flash_internimage.engine.config import load_config
from flash_internimage.errors import UserError

COMPLETE = "model = dict(x=1)\ndataloader = dict()\ntrain = dict(max_iter=5)\noptimizer = dict()\nlr_multiplier = dict()\n"


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_config_loads_with_overrides(write):
    assert load_config(write("a.py", COMPLETE), ["train.max_iter=7"]).train.max_iter == 7


def test_saved_yaml_loads_again(write):
    cfg = load_config(write("a.py", COMPLETE), ["train.max_iter=7"])
    assert load_config(write("b.yaml", OmegaConf.to_yaml(cfg))) == cfg


def test_numbers_that_are_too_small_are_refused(write):
    for override in ("train.max_iter=0", "train.accumulation_steps=0"):
        with pytest.raises(UserError, match=f"{override}: expected 1 or more"):
            load_config(write("a.py", COMPLETE.replace("max_iter=5", "max_iter=5, accumulation_steps=1")), [override])


def test_evaluation_needs_no_optimizer(write):
    path = write("a.py", "model = dict()\ndataloader = dict()\ntrain = dict()\n")
    assert list(load_config(path, eval_only=True)) == ["model", "dataloader", "train"]
    with pytest.raises(ValueError, match="defines no optimizer, no lr_multiplier; is it only a part of a config"):
        load_config(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask_rcn.py", r"no such file; did you mean .*coco/mask_rcnn.py\?"),
        ("../cooc/mask_rcnn.py", r"no such file; did you mean .*coco/mask_rcnn.py\?"),
        ("mask.py", r"no such file; did you mean .*coco/mask_rcnn.py\?"),
        ("something_else_entirely.py", r"no such file$"),
    ],
)
def test_error_for_a_missing_config_suggests_similar_names(write, tmp_path, monkeypatch, name, message):
    write("coco/mask_rcnn.py", COMPLETE)
    write("coco/cascade.py", COMPLETE)
    with pytest.raises(UserError, match=message):
        load_config(str(tmp_path / "coco" / name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("train = dict(\n", r"bad.py:1: SyntaxError: '\(' was never closed", id="syntax"),
        pytest.param("train = dict()\nmodel = nothing\n", r"bad.py:2: NameError: name 'nothing'", id="name"),
        pytest.param("\nfrom .nowhere import train\n", r"bad.py:2: ImportError: .*nowhere.py", id="missing parent"),
        pytest.param("from .broken import train\n", r"broken.py:2: ZeroDivisionError", id="broken parent"),
    ],
)
def test_error_in_a_config_names_its_line(write, text, message):
    original_import = builtins.__import__
    write("broken.py", "train = dict()\ntrain.x = 1 / 0\n")
    with pytest.raises(ValueError, match=message):
        load_config(write("bad.py", text))
    assert builtins.__import__ is original_import


def test_other_file_types_are_rejected(write):
    with pytest.raises(ValueError, match=r"notes.md: expected a .py or .yaml file"):
        load_config(write("notes.md", ""))


def test_error_for_invalid_yaml_is_one_line(write):
    with pytest.raises(ValueError, match="bad.yaml: ParserError") as info:
        load_config(write("bad.yaml", "a: [1\nb: 2"))
    assert "\n" not in str(info.value)
