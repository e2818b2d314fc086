"""Reading untrusted files: damaged files get a message, and files that could run code are refused."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import ClassVar

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


def test_the_printed_command_quotes_the_name_of_the_file(tmp_path):
    torch.save({"a": np.float64(0.5)}, tmp_path / "a; touch b.pth")
    with pytest.raises(CheckpointError, match=r"convert '.*/a; touch b.pth' OUT.pth --allow"):
        read_checkpoint(tmp_path / "a; touch b.pth")


class Named:
    """Pickled as the name of a function or type."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class Call:
    """Pickled as a call of :class:`Named` with arguments, and optionally a state."""

    def __init__(self, function: Named, *arguments: object, state: object = None):
        self.function, self.arguments, self.state = function, arguments, state


class _Writer(pickle._Pickler):
    """Writes pickles that Python's own pickler would refuse to write."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_named(self, named: Named) -> None:
        self.write(pickle.GLOBAL + f"{named.module}\n{named.name}\n".encode())

    def save_call(self, call: Call) -> None:
        self.save(call.function)
        self.save(call.arguments)
        self.write(pickle.REDUCE)
        for state in call.state if isinstance(call.state, list) else []:
            self.save(state)
            self.write(pickle.BUILD)

    dispatch[Named], dispatch[Call] = save_named, save_call


def write_archive(path: Path, contents: object = None, entries: dict[str, bytes] | None = None, **settings: int) -> Path:
    """Write an archive like torch.save's, with any contents or entries."""
    buffer = io.BytesIO()
    _Writer(buffer, protocol=2).dump(contents)
    with zipfile.ZipFile(path, "w", **settings) as archive:
        for name, data in {"a/data.pkl": buffer.getvalue(), "a/version": b"3\n", **(entries or {})}.items():
            archive.writestr(name, data)
    return path


NUMPY = "numpy.core.multiarray"
NDARRAY = Named("numpy", "ndarray")
ALL_OF_NUMPY = [f"{NUMPY}._reconstruct", f"{NUMPY}.scalar", "numpy.dtype", "numpy.ndarray"]


def dtype(code: object, *states: tuple) -> Call:
    return Call(Named("numpy", "dtype"), code, False, True, state=list(states))


def array(*states: tuple) -> Call:
    return Call(Named(NUMPY, "_reconstruct"), NDARRAY, (0,), b"b", state=list(states))


LITTLE = (3, "<", None, None, None, -1, -1, 0)


def test_arrays_of_numpy_are_copied(tmp_path):
    found = array((1, (2, 3), dtype("i2", LITTLE), False, np.arange(6, dtype="<i2").tobytes()))
    last = array((1, (2, 2), dtype("f8", (3, ">", None, None, None, -1, -1, 0)), True, np.arange(4, dtype=">f8").tobytes()))
    path = write_archive(tmp_path / "a.pth", {"seen": [found, (last,)], "type": dtype("f4", LITTLE)})
    contents = read_checkpoint(path, allow=ALL_OF_NUMPY)
    np.testing.assert_array_equal(contents["seen"][0], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(contents["seen"][1][0], [[0, 2], [1, 3]])
    assert contents["seen"][0].flags.writeable, "a view of the file's bytes"
    assert contents["type"] == np.float32


BAD_NUMPY = {
    "the state of an array of bytes set again with an object dtype": (
        array((1, (16,), dtype("u1", LITTLE), False, bytes(16)), (1, (2,), dtype("O8", LITTLE), False, bytes(16))),
        "dtype 'O8'",
    ),
    "a number's dtype that becomes a structure": (
        array((1, (1,), dtype("u8", (3, "|", None, ("a",), {"a": (dtype("u8"), 0)}, 8, 8, 0)), False, bytes(8))),
        "more than a number's",
    ),
    "more values than bytes": (array((1, (1 << 40,), dtype("u1"), False, bytes(8))), "expected 1099511627776 bytes"),
    "a negative shape": (array((1, (-1, -8), dtype("u1"), False, bytes(8))), r"shape \(-1, -8\)"),
    "a shape of floats": (array((1, (8.0,), dtype("u1"), False, bytes(8))), r"shape \(8.0,\)"),
    "contents that are no bytes": (array((1, (8,), dtype("u1"), False, [0] * 8)), "in list, expected 8 bytes"),
    "an array without a state": (array(), "a NumPy array without contents"),
    "a dtype that is none": (array((1, (8,), 3, False, bytes(8))), "without a dtype"),
    "a subclass": (Call(Named(NUMPY, "_reconstruct"), Named("numpy", "dtype"), (0,), b"b"), "a subclass of NumPy's array"),
    "a scalar of too few bytes": (Call(Named(NUMPY, "scalar"), dtype("f8"), bytes(4)), "expected 8 bytes"),
    "a scalar of objects": (Call(Named(NUMPY, "scalar"), dtype("O"), bytes(8)), "dtype 'O'"),
    "the type itself": (NDARRAY, "NumPy's type of arrays"),
}


@pytest.mark.parametrize("name", BAD_NUMPY)
def test_values_of_numpy_are_checked(tmp_path, name):
    value, message = BAD_NUMPY[name]
    path = write_archive(tmp_path / "a.pth", {"a": value})
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path, allow=ALL_OF_NUMPY)


@pytest.mark.parametrize("name", ["bytearray", "FloatTensor", "UntypedStorage"])
def test_names_that_torch_allows_beyond_plain_data_are_refused(tmp_path, name):
    module = {"bytearray": "builtins", "UntypedStorage": "torch.storage"}.get(name, "torch")
    path = write_archive(tmp_path / "a.pth", {"a": Call(Named(module, name), 1 << 24)})
    with pytest.raises(CheckpointError, match=f"would construct {module}.{name}"):
        read_checkpoint(path)


OTHER_TENSORS = {
    "sparse tensors": lambda: torch.eye(3).to_sparse(),
    "meta tensors": lambda: torch.empty(3, device="meta"),
    "quantized tensors": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "tensors of 8-bit floats": lambda: torch.ones(3).to(torch.float8_e4m3fn),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", OTHER_TENSORS)
def test_only_dense_tensors_are_read(tmp_path, kind):
    torch.save({"a": OTHER_TENSORS[kind]()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"it holds {kind}.*, expected plain dense tensors"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_tensor_larger_than_the_file_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 30)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="more bytes than the file"):
        read_checkpoint(tmp_path / "a.pth")


def test_an_opcode_that_torch_does_not_know_is_named(tmp_path):
    path = write_archive(tmp_path / "a.pth", entries={"a/data.pkl": pickle.dumps({"a": 1}, protocol=4)})
    with pytest.raises(CheckpointError, match=r"its pickle has the opcode FRAME \(protocol 4\)"):
        read_checkpoint(path)


def test_compressed_entries_are_refused_before_they_are_read(tmp_path):
    zeros = {"a/data.pkl": bytes(1 << 24)}
    path = write_archive(tmp_path / "a.pth", entries=zeros, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(
        CheckpointError, match="its entry 'a/data.pkl' is compressed, but torch.save stores entries as they are"
    ):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["a/data.pkl", "A/Data.pkl"])
def test_entries_that_are_listed_twice_are_refused(tmp_path, name):
    path = write_archive(tmp_path / "a.pth")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"other")
    with pytest.raises(CheckpointError, match=f"it holds the entry '{name}' twice"):
        read_checkpoint(path)


def test_an_archive_in_several_files_is_described(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[data.rindex(b"PK\x06\x07") + 16] = 5  # the number of files, in the locator of the directory
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(
        CheckpointError, match="the archive's directory, which is at the end of the file, is missing or damaged"
    ):
        read_checkpoint(tmp_path / "a.pth")


def test_an_archive_of_something_else_is_described(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("paper.txt", "text")
    with pytest.raises(CheckpointError, match="not one of torch.save, which has one folder with an entry data.pkl"):
        read_checkpoint(tmp_path / "a.pth")


def test_keys_that_are_no_names_are_refused(tmp_path):
    torch.save({1: torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="expected names as its keys, got a key of type int"):
        read_checkpoint(tmp_path / "a.pth")


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
