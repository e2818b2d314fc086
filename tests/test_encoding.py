"""Text files are opened with an encoding: that of the locale is ASCII in a container without one, and differs on Windows."""

import ast
from pathlib import Path

import pytest

PROGRAMS = ["setup.py", "train_net.py", "flash_internimage", "projects", "tools", "benchmarks"]
# Owners of an open() that is not that of text files, or is given the encoding.
OTHER_MODULES = {"Image", "PathManager", "SerializedDicts", "archive", "os", "tarfile"}


def text_without_encoding(source: str) -> list[int]:
    """Return the lines of the calls that read or write text in the encoding of the locale.

    Ruff's PLW1514 does this only for objects whose type it can infer, and is a preview rule.
    """
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and _lacks_encoding(node)]


def _lacks_encoding(call: ast.Call) -> bool:
    keywords = {keyword.arg for keyword in call.keywords}
    if keywords & {"encoding", None}:  # None: **arguments
        return False
    if isinstance(call.func, ast.Attribute):
        name, owner = call.func.attr, call.func.value
        if name == "open" and isinstance(owner, ast.Name) and owner.id in {*OTHER_MODULES, "self"}:
            return False
        if name == "open" and isinstance(owner, ast.Call) and not _is_path(owner):  # super(), a urllib opener
            return False
    else:
        name = getattr(call.func, "id", "")
    if name == "open":
        texts = [node.value for node in [*call.args, *(k.value for k in call.keywords)] if isinstance(node, ast.Constant)]
        return not any(isinstance(text, str) and set(text) <= set("rwxab+") and "b" in text for text in texts)
    if name in ("run", "Popen", "check_output"):
        return bool(keywords & {"text", "universal_newlines"})
    positions = {"read_text": 0, "write_text": 1, "FileHandler": 2}  # of the argument `encoding`
    return name in positions and len(call.args) <= positions[name]


def _is_path(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "Path"


@pytest.mark.parametrize("program", PROGRAMS)
def test_text_is_read_and_written_with_an_encoding(repository: Path, program: str):
    files = [repository / program] if program.endswith(".py") else sorted((repository / program).rglob("*.py"))
    assert files
    found = [
        f"{file.relative_to(repository)}:{line}"
        for file in files
        for line in text_without_encoding(file.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("folder", ["configs", "flash_internimage/configs"])
def test_configs_are_ascii(repository: Path, folder: str):
    assert [str(file) for file in (repository / folder).rglob("*.py") if not file.read_bytes().isascii()] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, mode='a')", True),
        ("open(path, 'rb')", False),
        ("open(path, encoding='utf-8')", False),
        ("path.open()", True),
        ("Path(path).open()", True),
        ("Image.open(path)", False),
        ("super().open(path)", False),
        ("lambda path: path.write_text(text)", True),
        ("path.write_text(text, 'utf-8')", False),
        ("path.read_text()", True),
        ("logging.FileHandler(path)", True),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command)", False),
    ],
)
def test_rule(source: str, found: bool):
    assert text_without_encoding(source) == [1] * found
