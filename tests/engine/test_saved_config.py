"""Saved configs are data: what they may hold and name, and what is refused without being called."""

import functools

import pytest
import torch

from flash_internimage.engine.config import load_config, save_config
from flash_internimage.engine.saved_config import TRUSTED
from flash_internimage.errors import UserError
from flash_internimage.layers import LayerNorm2d

COMPLETE = "dataloader: {}\ntrain: {}\noptimizer: {}\nlr_multiplier: {}\n"


@pytest.fixture
def load(tmp_path):
    def load(model: str, **settings: bool):
        (tmp_path / "config.yaml").write_text(f"model: {model}\n{COMPLETE}")
        return load_config(str(tmp_path / "config.yaml"), **settings)

    return load


@pytest.mark.parametrize(
    "config",
    ["coco/cascade_flash_intern_image_l_fpn_3x_coco", "coco/dino_4scale_flash_internimage_l_1x_coco"]
    + ["shapes/mask_rcnn_flash_internimage_nano"],
)
def test_a_saved_config_is_loaded_without_trust(repository, tmp_path, config):
    cfg = load_config(str(repository / f"configs/{config}.py"))
    save_config(cfg, str(tmp_path / "first.yaml"))
    again = load_config(str(tmp_path / "first.yaml"))
    save_config(again, str(tmp_path / "second.yaml"))
    assert (tmp_path / "second.yaml").read_text() == (tmp_path / "first.yaml").read_text()


def test_the_tags_of_saved_configs_are_read(load, tmp_path):
    (tmp_path / "a.py").write_text(
        "import functools, torch\nfrom flash_internimage.layers import LayerNorm2d\n"
        "model = dict(norm=functools.partial(LayerNorm2d, eps=1e-5), size=(1, 2), kind=torch.nn.ReLU)\n"
        "dataloader = dict()\ntrain = dict()\noptimizer = dict()\nlr_multiplier = dict()\n"
    )
    save_config(load_config(str(tmp_path / "a.py")), str(tmp_path / "b.yaml"))
    model = load_config(str(tmp_path / "b.yaml")).model
    assert isinstance(model.norm, functools.partial)
    assert (model.norm.func, model.norm.keywords) == (LayerNorm2d, {"eps": 1e-5})
    assert list(model.size) == [1, 2]
    assert model.kind is torch.nn.ReLU


REFUSED = {
    "a call by a tag": (
        "!!python/object/apply:os.mkdir [RAN]",
        "YAML tag '!!python/object/apply:os.mkdir', which can run code",
    ),
    "a new object": ("!!python/object/new:os.mkdir [RAN]", "YAML tag '!!python/object/new:os.mkdir'"),
    "an object": ("!!python/object:os.mkdir {}", "YAML tag '!!python/object:os.mkdir'"),
    "a module": ("!!python/module:os ''", "YAML tag '!!python/module:os'"),
    "an unknown tag": ("!mine {}", "YAML tag '!mine'"),
    "a name of another package": ("{a: !!python/name:os.mkdir ''}", "it names 'os.mkdir', which a saved config may not call"),
    "a partial of another package": (
        "!!python/object/apply:functools.partial {args: [&a !!python/name:os.mkdir ''], "
        "state: !!python/tuple [*a, !!python/tuple [RAN], {}, null]}",
        "it names 'os.mkdir'",
    ),
    "a partial of two functions": (
        "!!python/object/apply:functools.partial {args: [!!python/name:torch.nn.ReLU ''], "
        "state: !!python/tuple [!!python/name:torch.nn.Tanh '', !!python/tuple [], {}, null]}",
        "a functools.partial that save_config did not write",
    ),
    "a partial of text": (
        "!!python/object/apply:functools.partial {args: [a], state: !!python/tuple [a, !!python/tuple [], {}, null]}",
        "a functools.partial that save_config did not write",
    ),
    "a target of another package": (
        "{_target_: os.mkdir, path: RAN}",
        "it names 'os.mkdir', which a saved config may not call",
    ),
    "a target inside of lists": ("{a: [[{b: {_target_: subprocess.run, args: x}}]]}", "it names 'subprocess.run'"),
    "a target through a trusted module": (
        "{_target_: torch.nn.functional.importlib.os.mkdir, path: RAN}",
        "it names 'torch.nn.functional.importlib.os.mkdir', which",
    ),
    "an imported function": ("{_target_: flash_internimage.data.check.os.mkdir, path: RAN}", "no class or function of its own"),
    "a module as target": ("{_target_: torch.nn.functional}", "no class or function of its own package"),
    "a private name": ("{_target_: torch.nn.attention._fa3._fa3_import_module}", "may not call"),
    "a function that reads pickles": (
        "{_target_: torch.load, f: a.pth}",
        "it names 'torch.load', which a saved config may not",
    ),
    "a function that runs configs": ("{_target_: flash_internimage.engine.config.load_config}", "which a saved config"),
    "a target by interpolation": ("{a: os.mkdir, _target_: '${.a}'}", "may not call"),
    "a target by a call": ("{_target_: {_target_: torch.nn.ReLU}}", "a _target_ that is no name"),
    "a name that does not exist": ("{_target_: torch.nn.NoSuchLayer}", "cannot be imported|no class or function"),
    "an environment variable": ("{a: '${oc.env:HOME}'}", "reads more than the config"),
    "a resolver by interpolation": ("{r: oc.env, a: '${${.r}:HOME}'}", "reads more than the config"),
    "a value by a resolver": ("{r: oc.create, model: '${${r}:{_target_:platform.node}}'}", "reads more than the config"),
    "an interpolation of pieces": ("{a: '$', b: '${a}{oc.env:HOME}${.${a}}'}", "reads more than the config"),
    "a merge key": ("{a: &a {b: 1}, c: {<<: *a}}", "YAML merge key"),
    "aliases that expand": (
        "{" + ", ".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['x'] * 9)}]" for i in range(9)) + "}",
        "more than 100,000 values",
    ),
    "a list that holds itself": ("&a [*a]", "more than 100,000 values"),
    "lists within lists": ("\n" + "- " * 2000, "RecursionError"),
    "an unfinished list": ("[1, 2", "ParserError"),
    "nothing of a config": ("1\n- 2", "ParserError|ScannerError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_run_code_is_refused(load, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    model, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        load(model)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("content", ["", "1", "[1]", "text"])
def test_a_file_without_keys_is_described(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match="config .*config.yaml: expected keys and values, got"):
        load_config(str(tmp_path / "config.yaml"))


def test_a_trusted_config_may_call_anything(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load("!!python/object/apply:os.mkdir [RAN]", trust_config=True)
    assert (tmp_path / "RAN").exists()
    assert load("{_target_: os.mkdir, path: b}", trust_config=True).model._target_ == "os.mkdir"


@pytest.mark.parametrize("package", TRUSTED)
def test_the_trusted_packages_exist(package):
    __import__(package)
