"""Environments for another PyTorch and copies of the sources."""

import os
import sys


def test_each_python_has_its_own_folder(tool, monkeypatch):
    """An extension for one Python cannot be loaded by another."""
    environment = tool("torch_environment")
    folders = []
    for version in ((3, 11, 7), (3, 12, 1), (3, 12, 3)):
        monkeypatch.setattr(sys, "version_info", version)
        folders.append(environment.folder("2.8").name)
    assert folders == ["torch-2.8-python3.11", "torch-2.8-python3.12", "torch-2.8-python3.12"]


def test_digest_is_of_the_kernels_alone(tool, tmp_path):
    digest = tool("torch_environment").native_digest
    (tmp_path / "csrc" / "core").mkdir(parents=True)
    (tmp_path / "csrc" / "core" / "point.h").write_text("before")
    before = digest(tmp_path)
    (tmp_path / "csrc" / "README.md").write_text("notes")
    assert digest(tmp_path) == before
    (tmp_path / "csrc" / "core" / "point.h").write_text("after")
    after = digest(tmp_path)
    (tmp_path / "csrc" / "core" / "point.h").rename(tmp_path / "csrc" / "point.h")
    assert len({before, after, digest(tmp_path)}) == 3


def test_a_copy_follows_the_checkout_and_keeps_compiled_files(tool, monkeypatch, tmp_path):
    environment = tool("torch_environment")
    checkout, target = tmp_path / "checkout", tmp_path / "copy"
    package = checkout / "package"
    package.mkdir(parents=True)
    for name in ("kept.py", "removed.py", "_C.so"):
        (package / name).write_text("before")
        os.utime(package / name, (1000, 1000))
    (checkout / "setup.py").write_text("")
    monkeypatch.setattr(environment, "ROOT", checkout)
    monkeypatch.setattr(environment, "SOURCES", ["package", "setup.py"])

    environment.copy_sources(target)
    assert sorted(path.name for path in target.rglob("*.*")) == ["kept.py", "removed.py", "setup.py"]
    assert (target / "package" / "kept.py").stat().st_mtime == 1000  # ninja compares times
    (target / "package" / "_C.so").write_text("compiled there")
    (package / "removed.py").unlink()
    environment.copy_sources(target)
    assert sorted(path.name for path in (target / "package").iterdir()) == ["_C.so", "kept.py"]
    assert (target / "package" / "_C.so").read_text() == "compiled there"
