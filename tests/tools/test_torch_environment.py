"""Copies of the sources for another PyTorch."""

import os


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
