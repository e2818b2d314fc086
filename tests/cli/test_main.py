"""The program around its commands: help, versions, unknown commands, and examples that are valid commands."""

import re
import shlex
import subprocess
import sys

import pytest
from detectron2.config import LazyConfig

from flash_internimage import __version__, model_zoo
from flash_internimage.cli.arguments import config_path, overrides_with_weights
from flash_internimage.cli.main import COMMANDS, command_module, command_parser
from flash_internimage.engine.config import load_config


def test_help_lists_the_commands_without_importing_torch():
    program = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, 'detectron2' in sys.modules))\n"
        "from flash_internimage.cli.main import main; main(['--help'])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  ([a-z][a-z-]+)  ", printed, flags=re.MULTILINE) == list(COMMANDS)
    assert printed.endswith("False False\n")


def test_python_m_is_the_same_program(repository):
    command = [sys.executable, "-m", "flash_internimage", "--version"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == f"flash-internimage {__version__}\n"


def test_importing_a_command_prints_no_warnings_of_detectron2(repository):
    program = "from flash_internimage.cli.main import command_module; command_module('train')"
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("argv", [[], ["tran"], ["--config-file", "a.py"]], ids=["none", "unknown", "flag first"])
def test_a_command_is_needed(flash_internimage, argv):
    done = flash_internimage(*argv)
    assert done.returncode == 2
    assert "COMMAND" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(flash_internimage, command):
    done = flash_internimage(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: flash-internimage {command} ")
    assert "\nExample" in done.stdout


def examples(text: str) -> list[list[str]]:
    """The commands in a docstring as words: what follows ``flash-internimage``, or ``-m flash_internimage``."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(found[1]) for line in lines if (found := re.match(r"    (?:\S.*)?flash.internimage (.*)", line))]


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_valid_commands(command, monkeypatch, nano_run):
    monkeypatch.chdir(nano_run)
    found = examples(command_module(command).__doc__)
    assert found
    for words in found:
        assert words[0] == command
        args = command_parser(command).parse_intermixed_args(words[1:])
        names = getattr(args, "config_file", None) or []
        for name in [names] if isinstance(names, str) else names:
            overrides = overrides_with_weights(args) if "weights" in args else getattr(args, "overrides", [])
            load_config(config_path(name), overrides)


@pytest.fixture
def nano_run(tmp_path):
    """A folder in which a run has saved its config, as the examples assume."""
    (tmp_path / "output").mkdir()
    LazyConfig.save(model_zoo.get_config("mask_rcnn_flash_internimage_nano"), str(tmp_path / "output" / "config.yaml"))
    return tmp_path


def test_a_mistake_is_one_line_and_code_1(flash_internimage):
    done = flash_internimage("train", "--config-file", "configs/coco/no.py")
    assert done.returncode == 1
    assert done.stderr.startswith("flash-internimage train: error: config configs/coco/no.py: no such file")
    assert done.stderr.count("\n") == 1
