"""Every command and code block of the README and the documentation is run, or marked with its requirements and checked.

``<!-- needs: COCO, a GPU -->`` before a block marks it. The flags, files and config keys of a marked command must exist.
Commands run in the order of the page, in a folder with small datasets and models (``sandbox.py``).
"""

from __future__ import annotations

import argparse
import ast
import glob
import importlib
import importlib.util
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser as torchrun_parser

from flash_internimage.cli.arguments import config_path
from flash_internimage.cli.main import COMMANDS, command_parser
from flash_internimage.engine import overrides
from flash_internimage.engine.config import load_config
from tests.docs.blocks import Block, code_spans, read_blocks, read_commands
from tests.docs.sandbox import small_models

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "projects/dino/README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
NEEDS = {
    "32 GPUs",
    "8 GPUs",
    "COCO",
    "SLURM",
    "a C++ compiler",
    "a CUDA toolkit",
    "a GPU",
    "a camera",
    "minutes",
    "the network",
    "a Hugging Face account",
    "detections",
    "fiftyone",
    "supervision",
}
LANGUAGES = {"python", "sh", "text"}
FOLDERS = "benchmarks|configs|csrc|docs|flash_internimage|projects|tests|tools"


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


class Parsed(BaseException):
    """Stops a program after it has parsed its command line, and carries the arguments."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, run_program: Callable[[Sequence[str]], None]) -> Callable:
    """Return a function that parses the arguments of ``python FILE ...`` with the program's own parser."""

    def parse(words: Sequence[str]) -> argparse.Namespace:
        with monkeypatch.context() as patch:
            for name in ("parse_args", "parse_intermixed_args"):
                original = getattr(argparse.ArgumentParser, name)

                def stop(self, args=None, namespace=None, original=original):
                    raise Parsed(original(self, args, namespace))

                patch.setattr(argparse.ArgumentParser, name, stop)
            with pytest.raises(Parsed) as parsed:
                run_program(["python", *words])
        return parsed.value.arguments

    return parse


def parse_command(words: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of ``flash-internimage COMMAND ...``."""
    command, *rest = words
    if command not in COMMANDS:
        pytest.fail(f"flash-internimage has no command {command}")
    parser = command_parser(command)
    parser.exit_on_error = False
    parser.error = pytest.fail
    return parser.parse_intermixed_args(rest)


def expand(words: Sequence[str]) -> list[str]:
    """Expand file patterns, as a shell does."""
    return [match for word in words for match in (sorted(glob.glob(word)) or [word])]


def check_command(words: list[str], parse: Callable) -> None:
    """Raise an error if a command names a program, target, flag, file or config key that does not exist."""
    program, *rest = words
    if program == "srun":
        check_command(rest, parse)
    elif program == "torchrun":
        arguments = torchrun_parser().parse_args(rest)
        module = ["-m"] if arguments.module else []
        check_command(["python", *module, arguments.training_script, *arguments.training_script_args], parse)
    elif program == "flash-internimage" or (program == "python" and rest[:2] == ["-m", "flash_internimage"]):
        check_arguments(parse_command(rest if program == "flash-internimage" else rest[2:]))
    elif program == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]) is not None, f"no module named {rest[1]}"
    elif program == "python":
        check_arguments(parse(expand(rest)))
    elif program == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif program == "test":  # the condition of a shell
        assert rest[-3:-1] == ["scontrol", "requeue"]
    elif program in ("pip", ".venv-convert/bin/pip"):
        assert rest[0] == "install"
    else:
        pytest.fail(f"{program}: no check for this program; add one, or leave it out of the documentation")


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise an error if a config or config key among the arguments does not exist."""
    configs = getattr(arguments, "config_file", [])
    for config in [configs] if isinstance(configs, str) else configs or []:
        load_config(config_path(config), getattr(arguments, "overrides", []))


def run_block(block: Block, run_program: Callable, sandbox: Path) -> None:
    """Run a block with small models."""
    if block.language == "sh":
        for words in read_commands(block.text):
            known = words[0] in ("python", "flash-internimage")
            assert known, f"{words[0]} is not run by this test: mark the block with what it needs"
            run_program(expand(words))
    elif (named := re.match(r"# (\S+\.py)\n", block.text)) is not None:
        file = sandbox / named[1]
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.text)
        if file.parent.name != "my_detectors":  # a module that a config imports
            load_config(named[1])
    else:
        exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})


def check_block(block: Block, parse: Callable) -> None:
    """Check a block that is not run: shell commands with :func:`check_command`, Python for its syntax and imports."""
    if block.language == "sh":
        for words in read_commands(block.text):
            check_command(words, parse)
        return
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name in block.needs or importlib.util.find_spec(alias.name), ast.unparse(node)


def test_blocks_have_a_language_and_known_requirements(page):
    for block in read_blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: {block.language or 'no language'}"
        assert set(block.needs) <= NEEDS, block.place


def test_commands(page, sandbox, run_program, parse):
    for block in read_blocks(page):
        if block.language == "text":
            continue
        try:
            if block.needs:
                check_block(block, parse)
            else:
                with small_models(sandbox):
                    run_block(block, run_program, sandbox)
        except (Exception, SystemExit) as error:
            error.add_note(f"in {block.place}") if hasattr(error, "add_note") else None  # Python 3.11
            raise


def test_config_keys_in_the_text(page):
    """``key=value`` in running text names a key of the Mask R-CNN T or the DINO T config."""
    spans = [span for span in code_spans(page) if re.match(r"\w+(\.\w+)+=", span)]
    configs = [
        f"configs/coco/{name}.py"
        for name in ("mask_rcnn_flash_intern_image_t_fpn_1x_coco", "dino_4scale_flash_internimage_t_1x_coco")
    ]
    loaded = [load_config(str(REPOSITORY / config)) for config in configs] if spans else []
    for span in spans:
        errors = []
        for cfg in loaded:
            try:
                overrides.apply_overrides(cfg.copy(), shlex.split(span))
            except ValueError as error:
                errors.append(str(error))
        assert len(errors) < len(loaded), errors


def test_files_in_the_text_exist(page):
    """Except paths that end in a slash: a program may create them."""
    for span in code_spans(page):
        if re.fullmatch(rf"(({FOLDERS})/[\w./-]*\w|train_net\.py)", span):
            assert (REPOSITORY / span).exists(), span


def test_link_targets_exist(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_a_marker_applies_to_the_next_block_only(tmp_path):
    file = tmp_path / "page.md"
    blocks = [f"```sh\n{letter}\n```\n" for letter in "abc"]
    file.write_text(f"<!-- needs: COCO, a GPU -->\n{blocks[0]}\n{blocks[1]}<!-- needs: minutes -->\ntext\n{blocks[2]}")
    assert [block.needs for block in read_blocks(file)] == [("COCO", "a GPU"), (), ()]


def test_shell_blocks_are_parsed_like_a_shell():
    text = "A=x.py\n\n# comment\nFORCE=1 python $A 'a b' \\\n    c   # why\npython b\n"
    assert read_commands(text) == [["python", "x.py", "a b", "c"], ["python", "b"]]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python train_net.py --config-file configs/coco/no.py", "no such file"),
        ("python train_net.py --config-file configs/shapes/dino_flash_internimage_nano.py train.max_itr=3", "max_iter"),
        ("flash-internimage train --config-file mask_rcnn_gone", "no config named 'mask_rcnn_gone'"),
        ("flash-internimage train --config-file mask_rcnn_flash_internimage_nano train.max_itr=3", "max_iter"),
        ("flash-internimage eval --config-file mask_rcnn_flash_internimage_nano --color", "--color"),
        ("flash-internimage gone", "no command gone"),
        ("torchrun -m flash_internimage train --config-file no.py", "no such file"),
        ("srun flash-internimage train --config-file no.py", "no such file"),
        ("python tools/gone.py", "gone.py"),
        ("make nothing", "nothing"),
        ("rm -rf", "no check for this program"),
    ],
)
def test_references_to_missing_things_are_detected(command, message, parse, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises((Exception, pytest.fail.Exception), match=message):
        check_command(command.split(), parse)


def test_unknown_flags_of_programs_are_detected(parse, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(pytest.fail.Exception, match="unrecognized arguments: --color"):
        check_command(["python", "train_net.py", "--config-file", "a.py", "--color"], parse)
