"""Messages about a compiled library that does not load."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flash_internimage.ops import _extension

USED = torch.__version__.split("+")[0]


def library(folder: Path, built_for: str | None) -> Path:
    """A file with what the compiler leaves in a library of that PyTorch version."""
    path = folder / "_C.so"
    marker = b"" if built_for is None else b"\0flash_internimage built for torch " + built_for.encode() + b"\0more"
    path.write_bytes(b"\x7fELF" + marker + bytes(100))
    return path


def test_the_compiled_library_names_its_pytorch():
    from flash_internimage import _C

    assert _extension.torch_of(Path(_C.__file__)) == USED


def test_a_library_for_another_pytorch_is_described(tmp_path):
    message = _extension.mismatch(library(tmp_path, "1.9.0"))
    assert message.startswith(f"flash_internimage was built for torch 1.9.0, and this is torch {USED}; build it again with ")


@pytest.mark.parametrize("built_for", [USED, None], ids=["this PyTorch", "no version in the file"])
def test_other_libraries_do_not_blame_pytorch(tmp_path, built_for):
    assert _extension.mismatch(library(tmp_path, built_for)) is None


def test_importing_a_library_for_another_pytorch_warns_once_and_works(tmp_path):
    """The package is copied beside a library that the loader refuses."""
    package = tmp_path / "flash_internimage"
    (package / "ops").mkdir(parents=True)
    source = Path(_extension.__file__).parents[1]
    for name in ("__init__.py", "errors.py", *(f"ops/{path.name}" for path in (source / "ops").glob("*.py"))):
        (package / name).write_bytes((source / name).read_bytes())
    library(package, "1.9.0").rename(package / "_C.so")
    code = (
        "import torch\n"
        "from flash_internimage.ops import dcnv4\n"
        "try:\n"
        "    dcnv4(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 3), 1)\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith(f"dcnv4: flash_internimage was built for torch 1.9.0, and this is torch {USED}; ")
    assert run.stderr.count("flash_internimage was built for torch 1.9.0") == 1
