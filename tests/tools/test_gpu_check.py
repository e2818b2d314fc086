"""The GPU check isolates its parts: one that hangs, fails or is missing does not affect the others. Needs no GPU."""

import json
import sys
import zipfile

import pytest


@pytest.fixture
def check(tool, monkeypatch, tmp_path):
    module = tool("gpu_check")
    monkeypatch.setattr(module, "WORK", tmp_path / "work")
    monkeypatch.setattr(module, "KIT", tmp_path / "kit")
    module.WORK.mkdir()
    return module


def part(check, code, seconds=20, **settings):
    return check.Part("A part", seconds, ["-c", code], **settings)


def test_limits_of_all_parts_stay_below_eight_minutes(check):
    assert sum(each.seconds for each in check.PARTS.values()) < 8 * 60


def test_a_part_that_passes_reports_its_table(check):
    outcome = check.run_part("some", part(check, "print('noise'); print('| a |'); print('| - |')"))
    assert outcome.result == "passed"
    assert outcome.details == "| a |\n| - |"
    assert not outcome.failed


def test_a_benchmark_reports_the_file_that_it_writes(check):
    code = "import sys; open(sys.argv[1], 'w').write('| table |'); print('| of a peer |')"
    outcome = check.run_part("some", part(check, code)._replace(command=["-c", code, "{table}"]))
    assert outcome.details == "| table |"


def test_a_part_that_fails_reports_the_end_of_its_output(check):
    outcome = check.run_part("some", part(check, "print('what happened'); raise SystemExit(3)"))
    assert outcome.result == "failed (3)"
    assert "what happened" in outcome.details
    assert outcome.failed


def test_a_part_that_hangs_is_stopped_with_its_children(check):
    code = "import os, time; os.fork(); print('started', flush=True); time.sleep(60)"
    outcome = check.run_part("some", part(check, code, seconds=1))
    assert outcome.result == "timed out after 1 s"
    assert "started" in outcome.details
    assert outcome.failed
    assert outcome.seconds < 20


def test_a_part_that_cannot_run_is_skipped_with_the_reason(check):
    outcome = check.run_part("some", part(check, "raise SystemExit(1)", obstacle=lambda: "no sanitizer"))
    assert outcome == ("skipped: no sanitizer", 0.0, "")
    assert not outcome.failed


@pytest.mark.parametrize(
    ("gpu", "name"),
    [("NVIDIA H100 80GB HBM3", "gpu_nvidia_h100_80gb_hbm3.md"), (None, "gpu_none.md")],
    ids=["a GPU", "none"],
)
def test_report_is_named_by_the_gpu(check, gpu, name):
    assert check.file_name(gpu) == name


def describe_a_gpu(has_kernels=True):
    build = {"cuda": has_kernels, "cuda_architectures": "9.0"}
    return {"gpu": "Some GPU", "torch": "2.11.0+cu130", "cuda": "13.0", "python": "3.12.3", "build": build, "error": None}


def test_one_failing_part_does_not_stop_the_others(check, monkeypatch, tmp_path):
    parts = {"first": part(check, "raise SystemExit(1)"), "second": part(check, "print('fine')")}
    monkeypatch.setattr(check, "PARTS", parts)
    monkeypatch.setattr(check, "describe", describe_a_gpu)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path)])
    assert check.main() == 1
    report = (tmp_path / "gpu_some_gpu.md").read_text()
    assert "# GPU check: Some GPU\n" in report
    assert "| A part | failed (1) |" in report
    assert "| A part | passed |" in report
    assert "fine" in report


def test_without_a_gpu_every_part_skips_itself(check, monkeypatch, tmp_path):
    monkeypatch.setattr(check, "describe", lambda: describe_a_gpu() | {"gpu": None})
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path)])
    assert check.main() == 0
    assert (tmp_path / "gpu_none.md").read_text().count("skipped: no GPU is visible to PyTorch") == len(check.PARTS)


@pytest.fixture
def kit(check):
    (check.KIT / "wheels").mkdir(parents=True)
    (check.KIT / "kit.json").write_text(json.dumps({"python": "3.12.1", "torch": "2.11.0+cu130"}))
    for package in ("DCNv4", "detectron2"):
        # Current setuptools spells the names of wheels in lower case.
        with zipfile.ZipFile(check.KIT / "wheels" / f"{package.lower()}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{package}/__init__.py", "")
    return check.KIT


def test_the_kit_brings_the_peer_but_not_what_is_installed(check, kit):
    check.unpack_kit(describe_a_gpu())
    assert [path.name for path in (check.WORK / "site").iterdir()] == ["DCNv4"]


def test_a_kit_for_another_pytorch_is_not_used(check, kit, capsys):
    check.unpack_kit(describe_a_gpu() | {"torch": "2.14.1+cu130"})
    assert not (check.WORK / "site").exists()
    assert "build/gpu-kit is for Python 3.12.1 and torch 2.11.0+cu130, and is not used" in capsys.readouterr().out
