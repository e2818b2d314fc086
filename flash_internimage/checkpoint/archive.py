"""Checks of a ``.pth`` file before ``torch.load``: the entries of its archive, and the contents of its pickle.

``torch.load(weights_only=True)`` runs no code, but accepts more than a checkpoint needs: compressed entries that fill the
memory, and names such as ``torch.FloatTensor``, whose call returns uninitialized memory. Nothing here unpickles.
"""

from __future__ import annotations

import os
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_LOCAL_HEADER = 30  # bytes before the name and the contents of an entry
_MAX_PICKLE = 256 << 20  # bytes; the pickle of a checkpoint holds only names and shapes, less than 10 MB

_OPCODES = frozenset(
    """PROTO STOP GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWFALSE
    NEWTRUE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BINPERSID BININT BININT1 BININT2 BINFLOAT BINGET LONG_BINGET BINPUT
    LONG_BINPUT BINUNICODE SHORT_BINSTRING LONG1""".split()  # noqa: SIM905
)
"""The opcodes that torch's restricted unpickler knows; its own scan raises an error at all others."""

PLAIN_NAMES = frozenset(
    """collections.OrderedDict collections.Counter builtins.set builtins.complex _codecs.encode
    torch.Size torch.device torch.nn.parameter.Parameter
    torch._utils._rebuild_parameter torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2
    torch.DoubleStorage torch.FloatStorage torch.HalfStorage torch.BFloat16Storage
    torch.LongStorage torch.IntStorage torch.ShortStorage torch.CharStorage torch.ByteStorage torch.BoolStorage
    torch.ComplexDoubleStorage torch.ComplexFloatStorage
    torch.float64 torch.float32 torch.float16 torch.bfloat16
    torch.int64 torch.int32 torch.int16 torch.int8 torch.uint8 torch.bool torch.complex128 torch.complex64""".split()  # noqa: SIM905
)
"""The names that a file with dense tensors and plain Python values refers to; ``_codecs.encode`` is for bytes."""

OTHER_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "sparse tensors",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta tensors, which have no values",
    "torch._utils._rebuild_qtensor": "quantized tensors",
    "torch._utils._rebuild_nested_tensor": "nested tensors",
    "torch._utils._rebuild_wrapper_subclass": "tensors of a subclass",
    "torch._tensor._rebuild_from_type_v2": "tensors of a subclass or with attributes",
    "torch._utils._rebuild_parameter_with_state": "parameters with attributes",
    "torch._utils._rebuild_tensor_v3": "tensors of 8-bit floats or unsigned integers",
}
"""Description, for messages, of what a file contains if it refers to one of these names."""


class BadFile(Exception):
    """Raised for a file that is not one of ``torch.save``; the message says what is wrong, with the file as its subject."""


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Return whether ``torch.load`` takes a file for an archive, and not for the format before PyTorch 1.6."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_entries(path: str | os.PathLike[str]) -> None:
    """Check that an archive is laid out as ``torch.save`` does: plain entries, each once, in one folder.

    Raises:
        BadFile: an entry is compressed, encrypted or listed twice, or entries overlap: a reader would need more memory than
            the file has bytes, or readers would disagree about its contents.
    """
    with _opened(path) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        if archive.comment:
            raise BadFile("the archive has a comment, which torch.save does not write")
        names: set[str] = set()
        for entry, following in zip(entries, [*entries[1:], None], strict=True):
            name = entry.filename
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                kind = "encrypted" if entry.flag_bits & 1 else "compressed"
                raise BadFile(f"its entry {name[:80]!r} is {kind}, but torch.save stores entries as they are")
            if entry.file_size != entry.compress_size:
                raise BadFile(f"its entry {name[:80]!r} has {entry.compress_size} bytes, but claims {entry.file_size}")
            if name.lower() in names:  # torch ignores the case of names
                raise BadFile(f"it holds the entry {name[:80]!r} twice")
            names.add(name.lower())
            end = entry.header_offset + _LOCAL_HEADER + len(name.encode()) + entry.compress_size
            if end > (archive.start_dir if following is None else following.header_offset):
                raise BadFile(f"its entry {name[:80]!r} of {entry.compress_size} bytes overlaps with what follows")
        folders = {name.partition("/")[0] for name in names}
        if len(folders) != 1 or f"{next(iter(folders))}/data.pkl" not in names:
            raise BadFile("it is an archive, but not one of torch.save, which has one folder with an entry data.pkl")
        size = next(entry.file_size for entry in entries if entry.filename.partition("/")[2].lower() == "data.pkl")
        if size > _MAX_PICKLE:
            raise BadFile(f"its entry data.pkl has {size:,} bytes, more than the {_MAX_PICKLE:,} that names and shapes need")


def names_in(path: str | os.PathLike[str]) -> set[str]:
    """Return the names of the functions and types that the pickle of a file refers to, as ``module.name``.

    Raises:
        BadFile: the file has no pickle, or one with opcodes that ``torch.save`` does not write.
    """
    if not is_archive(path):
        with open(path, "rb") as file:
            # Magic number, version of the protocol, system, contents, keys of the storages.
            return set().union(*(_names_in_pickle(file) for _ in range(5)))
    with _opened(path) as archive:
        name = next(name for name in archive.namelist() if name.partition("/")[2].lower() == "data.pkl")
        with archive.open(name) as file:
            return _names_in_pickle(file)


def _names_in_pickle(file: IO[bytes]) -> set[str]:
    names = set()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name not in _OPCODES:
                raise BadFile(
                    f"its pickle has the opcode {opcode.name} (protocol {opcode.proto}), which torch.load refuses; "
                    "save it again with torch.save and its default protocol"
                )
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                if (module, name) in NAME_MAPPING:  # as torch's unpickler: names of Python 2
                    module, name = NAME_MAPPING[module, name]
                names.add(f"{IMPORT_MAPPING.get(module, module)}.{name}")
    except BadFile:
        raise
    except Exception as error:  # pickletools raises exceptions of many types
        raise BadFile(f"not a file of torch.save ({_first_line(error)})") from error
    return names


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except BadFile:
        raise
    except Exception as error:  # zipfile raises exceptions of many types
        raise BadFile(f"its archive is damaged ({_first_line(error)}); download or save it again") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
