"""The GPU check isolates its parts: one that hangs, fails or is missing does not affect the others. Needs no GPU."""

import json
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from flash_internimage import _C


@pytest.fixture
def check(tool, monkeypatch, tmp_path):
    module = tool("gpu_check")
    monkeypatch.setattr(module, "WORK", tmp_path / "work")
    monkeypatch.setattr(module, "KIT", tmp_path / "kit")
    module.WORK.mkdir()
    return module


@pytest.fixture
def checkout(check, monkeypatch, tmp_path):
    """A checkout with sources and without an extension."""
    monkeypatch.setattr(check, "ROOT", tmp_path / "checkout")
    (check.ROOT / "flash_internimage").mkdir(parents=True)
    (check.ROOT / "csrc").mkdir()
    (check.ROOT / "csrc" / "extension.cpp").write_text("of this checkout")
    return check.ROOT


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


def test_a_part_needs_modules_that_are_installed_or_unpacked(check):
    needs = check.needs("json", "not_installed", "nor_this")
    assert needs() == "needs not_installed and nor_this"
    for name in ("not_installed", "nor_this"):
        (check.WORK / "site" / name).mkdir(parents=True)
    assert needs() is None


@pytest.mark.parametrize(
    ("gpu", "name"),
    [("NVIDIA H100 80GB HBM3", "gpu_nvidia_h100_80gb_hbm3.md"), (None, "gpu_none.md")],
    ids=["a GPU", "none"],
)
def test_report_is_named_by_the_gpu(check, gpu, name):
    assert check.file_name(gpu) == name


def describe_a_gpu(has_kernels=True):
    build = {"cuda": has_kernels, "cuda_architectures": "9.0"}
    versions = {"torch": "2.11.0+cu130", "cuda": "13.0", "python": "3.12.3"}
    return versions | {"gpu": "Some GPU", "capability": "9.0", "extension": _C.__file__, "build": build, "error": None}


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


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({}, "The extension has kernels for 9.0; its sha256 is `"),
        ({"build": {"cuda": False, "cuda_architectures": None}}, "The extension has kernels for CPUs only; its sha256 is `"),
        (
            {"build": None, "error": "no libcudart.so.13"},
            "The extension cannot be loaded: no libcudart.so.13.",
        ),
        ({"build": None, "error": "cannot import _C", "extension": None}, "There is no extension."),
    ],
    ids=["CUDA", "CPU", "not loaded", "none"],
)
def test_report_describes_the_extension_and_the_kit(check, found, sentence):
    lines = check.render(describe_a_gpu() | found, "build/gpu-kit is used.", {}, {}).splitlines()
    (line,) = (line for line in lines if line.startswith(sentence))
    assert line.endswith("build/gpu-kit is used.")


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("9.0", "9.0", True),
        ("8.0", "8.9", True),
        ("8.9", "8.0", False),
        ("9.0", "8.0", False),
        ("9.0", "10.0", False),
        ("9.0+PTX", "10.0", True),
        ("8.0;9.0+PTX", "8.6", True),
        ("9.0a", "9.0", True),
        ("10.0a", "10.3", False),
        ("10.0f", "10.3", True),
        ("10.0f+PTX", "12.0", False),
    ],
)
def test_code_runs_on_gpus_of_its_major_version_and_ptx_on_later_ones(check, architectures, capability, runs):
    assert check.runs_on(architectures, capability) == runs


EXTENSION = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"


@pytest.fixture
def kit(check, checkout, monkeypatch):
    """A kit of this checkout's sources, whose extension can be loaded."""
    monkeypatch.setattr(check, "load_error", lambda extension: None)
    (check.KIT / "wheels").mkdir(parents=True)
    (check.KIT / EXTENSION).write_bytes(b"of the first kit")
    describe_kit(check)
    for package in ("DCNv4", "detectron2", "not_installed"):
        # Current setuptools spells the names of wheels in lower case.
        with zipfile.ZipFile(check.KIT / "wheels" / f"{package.lower()}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{package}/__init__.py", "")
    return check.KIT


def describe_kit(check, **changes):
    made_for = {"python": "3.12.1", "torch": "2.11.0+cu130", "cuda": "13.0", "architectures": "9.0"}
    made_for |= {"sources": check.native_digest(check.ROOT)} | changes
    (check.KIT / "kit.json").write_text(json.dumps(made_for) + "\n")


def test_the_kit_brings_the_peer_but_not_what_is_installed(check, kit):
    sentence = check.unpack_kit(describe_a_gpu())
    assert sorted(path.name for path in (check.WORK / "site").iterdir()) == ["DCNv4", "not_installed"]
    assert sentence == f"build/gpu-kit is used: `{(kit / 'kit.json').read_text().strip()}`."


def test_the_extension_of_a_new_kit_replaces_one_with_kernels(check, kit, checkout):
    """The first kit leaves an extension that has kernels, which a second kit for changed sources must not leave in use."""
    there = checkout / "flash_internimage" / EXTENSION
    check.unpack_kit(describe_a_gpu(has_kernels=False))
    assert there.read_bytes() == b"of the first kit"
    (kit / EXTENSION).write_bytes(b"of the second kit")
    check.unpack_kit(describe_a_gpu())
    assert there.read_bytes() == b"of the second kit"
    assert [path.name for path in there.parent.iterdir()] == [EXTENSION]


def test_a_kit_of_other_sources_is_marked(check, kit, checkout):
    describe_kit(check, sources="0123")
    assert check.unpack_kit(describe_a_gpu()).endswith("**The extension was compiled from sources that differ from csrc.**")
    assert (checkout / "flash_internimage" / EXTENSION).exists()


def test_a_kit_of_other_sources_does_not_replace_what_make_compiled(check, kit, checkout, monkeypatch):
    describe_kit(check, sources="0123")
    monkeypatch.setattr(sys, "prefix", str(checkout / ".venv"))
    assert "The extension is not the kit's" in check.unpack_kit(describe_a_gpu())
    assert not (checkout / "flash_internimage" / EXTENSION).exists()
    check.unpack_kit(describe_a_gpu(has_kernels=False))
    assert (checkout / "flash_internimage" / EXTENSION).exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"torch": "2.14.1+cu130"}, "it is for PyTorch 2.11.0+cu130, and this is 2.14.1+cu130"),
        ({"python": "3.11.2"}, "it is for Python 3.12.1, and this is 3.11.2"),
        ({"torch": "2.11.0+cu128", "cuda": "12.8"}, "it is for CUDA 13.0, and this is 12.8"),
        ({"gpu": "A100", "capability": "8.0"}, "it is for compute capability 9.0, and A100 has 8.0"),
    ],
    ids=["PyTorch", "Python", "CUDA", "compute capability"],
)
def test_a_kit_for_another_machine_is_not_used(check, kit, checkout, changes, reason):
    (check.WORK / "site" / "of_an_earlier_kit").mkdir(parents=True)
    assert check.unpack_kit(describe_a_gpu(has_kernels=False) | changes) == f"build/gpu-kit is not used: {reason}."
    assert not (check.WORK / "site").exists()
    assert list((checkout / "flash_internimage").iterdir()) == []


def test_the_report_says_why_a_kit_is_not_used(check, kit, monkeypatch, tmp_path):
    monkeypatch.setattr(check, "PARTS", {"only": part(check, "print('fine')")})
    monkeypatch.setattr(check, "describe", lambda: describe_a_gpu() | {"capability": "8.0"})
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path)])
    assert check.main() == 0
    expected = "build/gpu-kit is not used: it is for compute capability 9.0, and Some GPU has 8.0."
    assert expected in (tmp_path / "gpu_some_gpu.md").read_text()


def test_a_kit_that_does_not_say_what_it_is_for_is_not_used(check, kit):
    (kit / "kit.json").write_text(json.dumps({"python": "3.12.1", "torch": "2.11.0+cu130", "architectures": "9.0"}))
    expected = "build/gpu-kit is not used: its kit.json has no entry 'cuda'; prepare it again with `make gpu-kit`."
    assert check.unpack_kit(describe_a_gpu()) == expected


def test_a_kit_that_cannot_be_loaded_is_not_used(check, kit, checkout, monkeypatch):
    monkeypatch.setattr(check, "load_error", lambda extension: "no libcudart.so.13")
    there = checkout / "flash_internimage" / EXTENSION
    there.write_bytes(b"that works")
    assert check.unpack_kit(describe_a_gpu(has_kernels=False)) == "build/gpu-kit is not used: no libcudart.so.13."
    assert there.read_bytes() == b"that works"


def test_the_message_of_the_loader_is_found(check, tmp_path):
    assert check.load_error(Path(_C.__file__)) is None
    (tmp_path / "_C.so").write_bytes(b"no library")
    assert check.load_error(tmp_path / "_C.so").startswith(f"ImportError: {tmp_path}/_C.so: ")
