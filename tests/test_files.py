"""Atomic writing of files."""

import errno
import resource
from pathlib import Path

import pytest
import torch

from flash_internimage.errors import UserError
from flash_internimage.files import full_disk_reported, remove_unfinished, write_atomically


def test_failed_write_leaves_only_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, lambda temporary: temporary.write_text("old"))

    def fails(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fails)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def little_space():
    """Files of this process can have 1 MiB at most: a write fails as on a full disk, with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path: path.write_bytes(bytes(2**21)), id="bytes"),
        pytest.param(lambda path: torch.save({"weight": torch.zeros(2**20)}, path), id="a checkpoint"),
    ],
)
def test_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, little_space, write):
    path = tmp_path / "a.pth"
    path.write_text("old")
    with pytest.raises(UserError, match=r"a.pth: cannot be written, since .*1.0 MiB were written, [\d,.]+ MiB are free\)"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_are_not_replaced(tmp_path):
    with pytest.raises(OSError, match="Is a directory"), full_disk_reported(tmp_path):
        raise OSError(errno.EISDIR, "Is a directory")


def test_unfinished_files_are_removed(tmp_path):
    (tmp_path / ".hidden").write_text("not ours")
    (tmp_path / ".unfinished-abc.pth").write_text("half")
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]
