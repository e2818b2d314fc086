"""Reading untrusted files: damaged files get a message, and files that could run code are refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flash_internimage.checkpoint.reading import CheckpointError, read_checkpoint


class RunsCode:
    """Unpickling it creates a folder."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_tensors_and_plain_values_are_read(tmp_path):
    torch.save({"model": {"a": torch.arange(3)}, "iteration": 7, "names": ["x"]}, tmp_path / "a.pth")
    contents = read_checkpoint(tmp_path / "a.pth")
    torch.testing.assert_close(contents["model"]["a"], torch.arange(3))
    assert (contents["iteration"], contents["names"]) == (7, ["x"])


def test_the_format_before_pytorch_1_6_is_read(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    torch.testing.assert_close(read_checkpoint(tmp_path / "a.pth")["a"], torch.arange(3))


def test_safetensors_are_read(tmp_path):
    save_file({"a": torch.arange(3)}, tmp_path / "a.safetensors")
    torch.testing.assert_close(read_checkpoint(tmp_path / "a.safetensors")["a"], torch.arange(3))


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "format before PyTorch 1.6"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, zipped):
    payload = RunsCode(tmp_path / "ran")
    torch.save({"a": torch.ones(1), "b": payload}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    message = "refused, since reading it would construct posix.mkdir" if zipped else "not unpickled"
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps(RunsCode(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="not unpickled, since that could run code"):
        read_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_harmless_types_are_refused_with_an_option_that_allows_them(tmp_path):
    torch.save({"a": torch.ones(1), "meta": {"best": np.float64(0.5), "seen": np.arange(3)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"these types are harmless: .*--allow (.*)` reads exactly them") as raised:
        read_checkpoint(tmp_path / "a.pth")
    allow = str(raised.value).split("--allow ")[1].split("`")[0].split()
    contents = read_checkpoint(tmp_path / "a.pth", allow=allow)
    assert contents["meta"]["best"] == 0.5
    np.testing.assert_array_equal(contents["meta"]["seen"], [0, 1, 2])


def test_only_harmless_types_can_be_allowed(tmp_path):
    torch.save({"b": RunsCode(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="posix.mkdir cannot be allowed"):
        read_checkpoint(tmp_path / "a.pth", allow=["posix.mkdir"])


def broken_files() -> dict[str, tuple[bytes, str]]:
    return {
        "empty.pth": (b"", "the file is empty"),
        "text.pth": (b"these are not weights", "not a file of torch.save"),
        "page.pth": (b"<!DOCTYPE html><html></html>", "this is a web page or a Git LFS pointer"),
        "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\n", "this is a web page or a Git LFS pointer"),
        "cut.safetensors": (b"\xff\x00\x00\x00\x00\x00\x00\x00{}", "its header claims 255 bytes, the file has 10"),
    }


@pytest.mark.parametrize("name", broken_files())
def test_a_broken_file_is_described(tmp_path, name):
    content, message = broken_files()[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999], ids=lambda share: f"truncated to {share:.1%}")
def test_a_truncated_archive_is_described(tmp_path, share):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="the archive's directory, which is at the end of the file, is missing"):
        read_checkpoint(tmp_path / "cut.pth")


def test_a_missing_file_and_a_list_are_described(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="expected a dictionary of tensors, got list"):
        read_checkpoint(tmp_path / "list.pth")
