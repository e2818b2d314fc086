"""A few mutated files for each reader; ``make fuzz-readers`` reads many more."""

import subprocess
import sys

import pytest


def test_only_errors_of_ours_come_out(repository):
    command = [sys.executable, "-m", "tests.hostile.fuzz", "--cases", "8"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "80 files, 0 failures" in done.stdout
    assert "config: refused" in done.stdout


@pytest.mark.parametrize("problem", ["raise KeyError(1)", "bytearray(3 << 30)", "import os; os.abort()"])
def test_the_fuzzer_reports_other_exceptions_too_much_memory_and_crashes(repository, tmp_path, problem):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types\n"
        "fake = types.ModuleType('tests.hostile.readers')\n"
        "def readers(folder):\n"
        "    (folder / 'a.txt').write_text('a')\n"
        "    mutate = lambda choose, data: b'mutated'\n"
        "    return {'broken': types.SimpleNamespace(valid=[folder / 'a.txt'], mutate=mutate, read=read)}\n"
        f"def read(path):\n    if path.read_bytes() == b'mutated':\n        {problem}\n"
        "fake.readers = readers\n"
        "sys.modules['tests.hostile.readers'] = fake\n"
    )
    command = [sys.executable, "-m", "tests.hostile.fuzz", "--cases", "1"]
    done = subprocess.run(
        command, cwd=repository, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert "at: python -m tests.hostile.fuzz --readers 'broken' --seed 0 --case 0" in done.stdout
