"""Random mutations of valid files: of bytes, of JSON values, and of lines of text."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from typing import Any

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 7, 2**31, 2**32 - 1, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.5, 1e308, -1e308, 5e-324,
    float("nan"), float("inf"), "", "x", "1", "\ud800", "\0", "../../a", "/a", "a" * 5000, [], {}, [[]], [None], [0],
    [1, 2, 3, 4], {"a": 1}, [[0, 0, 1, 1]], [[1e9, 1, 2, -1e9, 5, 5]], {"size": [60, 80], "counts": [1, 2]},
    {"size": [60, 80], "counts": "0`1"},
    {"size": [2**31, 2**31], "counts": [2**62]}, {"size": [60, 80], "counts": [-5, 4805]}, {"counts": []},
]  # fmt: skip
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1]


def mutate_bytes(choose: random.Random, data: bytes, most: int = 8) -> bytes:
    """Change, insert, remove and repeat a few bytes at random positions."""
    changed = bytearray(data)
    for _ in range(choose.randint(1, most)):
        start = choose.randrange(len(changed) + 1)
        length = choose.choice([1, 1, 2, 4, 8, 40])
        match choose.randrange(7):
            case 0:
                changed[start : start + 1] = choose.randbytes(1)
            case 1:
                changed[start:start] = choose.randbytes(length)
            case 2:
                del changed[start : start + length]
            case 3:
                changed[start:start] = changed[start : start + 10 * length]
            case 4:
                size = choose.choice([1, 2, 4, 8])
                number = choose.choice(NUMBERS) % 256**size
                changed[start : start + size] = number.to_bytes(size, choose.choice(["little", "big"]))
            case 5:
                other = choose.randrange(len(changed) + 1)
                changed[start : start + length] = changed[other : other + length]
            case 6 if choose.random() < 0.2:
                del changed[start:]
    return bytes(changed)


def mutate_archive(choose: random.Random, data: bytes) -> bytes:
    """Mutate the entries of a zip file, or rarely its own structure; checksums and sizes fit the new entries."""
    if choose.random() < 0.3:
        return mutate_bytes(choose, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    for _ in range(choose.randint(1, 2)):
        number = 0 if choose.random() < 0.8 else choose.randrange(len(entries))  # the pickle is first
        name, content = entries[number]
        match choose.randrange(8):
            case 0:
                entries.append(entries[number])
            case 1:
                entries[number] = ("a" + mutate_bytes(choose, name.encode(), 1).decode("latin-1"), content)
            case _:
                entries[number] = (name, mutate_bytes(choose, content, 3))
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if choose.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def mutate_json(choose: random.Random, data: bytes) -> bytes:
    """Replace, remove, add and move values of a JSON document at random places."""
    if choose.random() < 0.1:
        return mutate_bytes(choose, data)
    root = [json.loads(data)]
    for _ in range(choose.randint(1, 4)):
        container, key = _place(choose, root)
        if key is None:
            continue
        match choose.randrange(6):
            case 0 if container is not root:
                del container[key]
            case 1:
                other, its_key = _place(choose, root)
                container[key] = copy.deepcopy(other[its_key]) if its_key is not None else None
            case 2 if isinstance(container, list):
                container.insert(key, copy.deepcopy(choose.choice([container[key], *VALUES])))
            case 3 if isinstance(container, dict):
                container[choose.choice(["", "id", "x", "iscrowd", "counts", "segmentation", "0"])] = choose.choice(VALUES)
            case _:
                container[key] = copy.deepcopy(choose.choice(VALUES))
    return json.dumps(root[0]).encode("utf-8", "surrogatepass")


def _place(choose: random.Random, root: list) -> tuple[Any, Any]:
    """A random container inside of ``root``, and one of its keys; None if it is empty."""
    container: Any = root
    while True:
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        if not keys:
            return container, None
        key = choose.choice(keys)
        if not isinstance(container[key], dict | list) or (choose.random() < 0.15 and container is not root):
            return container, key
        container = container[key]


SNIPPETS = [
    "!!python/object/apply:os.getpid []", "!!python/name:os.getpid ''", "!!python/name:torch.nn.ReLU ''",
    "!!python/tuple [1, *id001]",
    "{_target_: os.getpid}", "{_target_: torch.nn.ReLU}", "{_target_: detectron2.layers.wrappers.os.getpid}",
    "{_target_: [1]}", "${a.b}", "${.x}", "${oc.env:HOME}", "${", "&a [*a]", "*id001", "<<: {a: 1}",
    "!!binary aGVsbG8=", "!!set {a, b}", "2001-01-01",
    "!!timestamp x", "!!int x", "!!float []", "9" * 5000, "0x" + "f" * 5000, "1:60:60", "---", "...", "%YAML 9.9",
    "? [a]", "- - - -",
    "|", ">", "[", "]", "{", "}", "'", '"', "???", "\0", "\ufffe",
]  # fmt: skip


def mutate_text(choose: random.Random, data: bytes) -> bytes:
    """Replace, remove, move and indent lines of a text, and put snippets of YAML in place of values."""
    if choose.random() < 0.15:
        return mutate_bytes(choose, data)
    lines = data.decode().split("\n")
    for _ in range(choose.randint(1, 4)):
        number = choose.randrange(len(lines))
        line = lines[number]
        match choose.randrange(6):
            case 0:
                del lines[number : number + choose.randint(1, 4)]
                lines = lines or [""]
            case 1:
                lines.insert(number, choose.choice(lines))
            case 2:
                lines[number] = " " * choose.randint(1, 3) + line if choose.random() < 0.5 else line[1:]
            case _:
                key, colon, _ = line.rpartition(": ")
                lines[number] = key + colon + choose.choice(SNIPPETS)
    return "\n".join(lines).encode()
