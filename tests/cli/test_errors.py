"""Which errors are one line, and which keep their traceback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from flash_internimage.cli.errors import SHOW_TRACEBACK, UsageError, message_for_user, reported
from flash_internimage.engine.overrides import apply_overrides
from flash_internimage.errors import UserError


def error_of(function):
    with pytest.raises(Exception) as info:
        function()
    return info.value


class BrokenDataset(Dataset):
    """Fails in a loader process."""

    def __init__(self, function):
        self.function = function

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.function()


def mistake_of_a_user():
    apply_overrides({}, ["nonsense"])


def bug_in_a_dependency():
    raise ValueError("not a mistake of the user's")


def module_that_is_not_installed(name):
    def function():
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return function


def bug_in_torch():
    torch.zeros(2, 3) @ torch.zeros(2, 3)


def load_in_a_process(function):
    return lambda: next(iter(DataLoader(BrokenDataset(function), num_workers=1)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(mistake_of_a_user, "override 'nonsense': expected key=value", id="raised by this project"),
        pytest.param(load_in_a_process(mistake_of_a_user), "override 'nonsense': expected key=value", id="in a loader process"),
        pytest.param(
            lambda: Path("/nowhere/at/all").read_text(), "/nowhere/at/all: No such file or directory", id="file system"
        ),
        pytest.param(
            module_that_is_not_installed("cv2"),
            "cv2 is not installed; images are resized and drawn with OpenCV: pip install opencv-python-headless",
            id="package that the user installs",
        ),
    ],
)
def test_mistake_of_a_user_is_one_line(function, message):
    text = message_for_user(error_of(function))
    assert text.startswith(message)
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(bug_in_a_dependency, id="raised elsewhere"),
        pytest.param(bug_in_torch, id="raised in C++"),
        pytest.param(load_in_a_process(bug_in_a_dependency), id="in a loader process"),
        pytest.param(lambda: json.loads("{"), id="a parser"),
        pytest.param(lambda: {}["x"], id="KeyError"),
        pytest.param(module_that_is_not_installed("flash_internimage.gone"), id="module of this package"),
    ],
)
def test_bug_keeps_its_traceback(function):
    assert message_for_user(error_of(function)) is None


def test_file_name_that_the_locale_cannot_encode(monkeypatch):
    error = error_of(lambda: "images/é.jpg".encode("ascii"))
    assert message_for_user(error) is None  # not about a file
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert message_for_user(error) == (
        "the name 'images/é.jpg' has characters that the locale's encoding of file names, ascii, does not have; "
        "set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
    )


def test_lost_process_points_at_the_others():
    error = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
    assert message_for_user(error) == "another process of this run ended; its own message says why"


def test_out_of_memory_says_what_to_change():
    error = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has …")
    # Not a smaller batch, with which the run could not be resumed.
    assert message_for_user(error).startswith(
        "out of GPU memory (CUDA out of memory); to train with less memory at the same batch size, continue with --resume "
        "and a higher train.accumulation_steps"
    )


@pytest.mark.parametrize("read", [lambda cfg: cfg.train.amp.dtype, lambda cfg: cfg.train["amp"]["dtype"]])
def test_value_that_a_config_lacks_is_named(read):
    with pytest.raises((AttributeError, KeyError)) as info:
        read(OmegaConf.create({"train": {"amp": {"enabled": True}}}))
    assert message_for_user(info.value).startswith("the config has no train.amp.dtype; a section that is replaced needs all")


def test_reported_ends_with_one_line_and_a_code(capsys):
    with pytest.raises(SystemExit) as info, reported("prog"):
        mistake_of_a_user()
    assert info.value.code == 1
    assert capsys.readouterr().err.startswith("prog: error: override 'nonsense'")


def test_arguments_that_do_not_go_together_end_with_code_2(capsys):
    with pytest.raises(SystemExit) as info, reported("prog"):
        raise UsageError("expected one of them")
    assert info.value.code == 2
    assert capsys.readouterr().err == "prog: error: expected one of them\n"


def test_silent_process_still_ends(capsys):
    with pytest.raises(SystemExit), reported("prog", silent=True):
        mistake_of_a_user()
    assert capsys.readouterr().err == ""


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv(SHOW_TRACEBACK, "1")
    with pytest.raises(ValueError, match="expected key=value"), reported("prog"):
        mistake_of_a_user()


def test_bug_passes_through():
    with pytest.raises(KeyError), reported("prog"):
        {}["x"]


def test_interrupt_is_quiet():
    code = "from flash_internimage.cli.errors import reported\nwith reported('prog'):\n    raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_control_characters_from_files_are_escaped(capsys):
    with pytest.raises(SystemExit), reported("prog"):
        raise UserError("a name with \x1b[31m and é\nand a second line")
    assert capsys.readouterr().err == "prog: error: a name with \\x1b[31m and é\nand a second line\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "DataLoader worker (pid 4711) is killed by signal: Killed. ",
            "a loader worker (process 4711) was killed (Killed); the usual cause is that the machine has run out of memory",
        ),
        (
            "DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
            "shared memory. Please try to raise your shared memory limit.",
            "a loader worker (process 4711) ended for lack of shared memory, /dev/shm; pass --shm-size=8g",
        ),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "a loader worker (process 7, 8) ended unexpectedly"),
        ("DataLoader timed out after 900 seconds", "have delivered no batch for a long time"),
    ],
)
def test_failures_of_loader_workers(text, message):
    assert message in message_for_user(RuntimeError(text))


def test_killed_loader_worker():
    """PyTorch's own words, which differ between versions."""
    loader = iter(DataLoader(range(100), num_workers=1))
    os.kill(loader._workers[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError) as raised:
        list(loader)
    assert " was killed (Killed); the usual cause is" in message_for_user(raised.value)
