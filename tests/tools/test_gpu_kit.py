"""The folder for a bare machine with a GPU."""

import argparse
import json
import sys
from pathlib import Path

import pytest

DISPATCH = """\
#include <ATen/ATen.h>
at::Tensor flash_deform_attn_cuda_forward(const at::Tensor &value) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::ScalarType::Half, at::ScalarType::BFloat16, value.scalar_type(), "name", ([&] {
    launch<scalar_t>(value);
  }));
}
"""


def test_the_peer_has_no_kernels_of_its_attention(tool):
    lines = tool("gpu_kit").without_attention(DISPATCH).splitlines()
    replaced = next(i for i, line in enumerate(lines) if line.startswith("#define AT_DISPATCH_FLOATING_TYPES_AND2(...)"))
    assert lines[replaced - 1] == "#undef AT_DISPATCH_FLOATING_TYPES_AND2"
    assert lines[: replaced - 1] == ["#include <ATen/ATen.h>"]
    assert [line for line in lines[replaced + 1 :] if line] == DISPATCH.splitlines()[1:]


def test_other_sources_of_the_peer_are_refused(tool):
    with pytest.raises(ValueError, match=r"flash_deform_attn_cuda\.cu of DCNv4==1\.0\.0\.post2 should have .* once"):
        tool("gpu_kit").without_attention("#include <ATen/ATen.h>\n")


@pytest.mark.parametrize("text", ["9.0", "8.0;9.0+PTX", "9.0a;10.0f"])
def test_architectures_are_compute_capabilities(tool, text):
    assert tool("gpu_kit").architecture_list(text) == text


@pytest.mark.parametrize("text", ["Hopper", "9", "8.0,9.0", "8.0;"])
def test_other_architectures_are_refused(tool, text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected compute capabilities such as 8.0;9.0.PTX, got {text}"):
        tool("gpu_kit").architecture_list(text)


@pytest.fixture
def downloads(tool, monkeypatch):
    """Replace commands: each that should fill a folder with wheels leaves one, and is recorded."""
    recorded = []

    def run(*words, **variables):
        folder = Path(words[words.index("--wheel-dir") + 1])
        folder.mkdir(exist_ok=True)
        (folder / ("pytest-9-py3-none-any.whl" if "wheel" in words else "detectron2-0.6-py3-none-any.whl")).touch()
        recorded.append(words)

    monkeypatch.setattr(tool("gpu_kit"), "run", run)
    return recorded


def test_wheels_are_downloaded_again_only_for_other_requirements(tool, downloads, monkeypatch, tmp_path):
    program = tool("gpu_kit")
    for _ in range(2):
        found = program.collect_wheels(Path("python"), tmp_path)
        assert [path.name.partition("-")[0] for path in found] == ["detectron2", "pytest"]
        assert len(downloads) == 2
    (tmp_path / "wheels" / "dropped-1-py3-none-any.whl").touch()
    monkeypatch.setattr(program, "REQUIREMENTS", ["pytest", "another"])
    found = program.collect_wheels(Path("python"), tmp_path)
    assert downloads[2][-2:] == ("pytest", "another")
    assert [path.name.partition("-")[0] for path in found] == ["detectron2", "pytest"]


def test_the_kit_names_the_versions_of_its_environment(tool, downloads, monkeypatch, tmp_path):
    """Those of the environment, not of the Python that runs the program: the extension was compiled there."""
    program = tool("gpu_kit")
    extension = tmp_path / "_C.so"
    extension.touch()
    toolkit = {"python": "3.99.1", "torch": "2.11.0+cu130", "cuda": "13.0", "home": "/cuda"}
    monkeypatch.setattr(program, "ROOT", tmp_path)
    monkeypatch.setattr(program, "KIT", tmp_path / "kit")
    monkeypatch.setattr(program, "folder", lambda version: tmp_path)
    monkeypatch.setattr(program, "python_with_torch", lambda version: Path("python"))
    monkeypatch.setattr(program, "describe", lambda python, scratch: toolkit)
    monkeypatch.setattr(program, "copy_sources", lambda target: None)
    monkeypatch.setattr(program, "build_extension", lambda *words, **variables: extension)
    monkeypatch.setattr(sys, "argv", ["gpu_kit", "--no-peer", "--architectures", "8.0"])
    program.main()
    about = json.loads((program.KIT / "kit.json").read_text())
    digest = program.native_digest(tmp_path / "sources-cuda")
    assert about == {"python": "3.99.1", "torch": "2.11.0+cu130", "cuda": "13.0", "architectures": "8.0", "sources": digest}
    assert (program.KIT / "_C.so").exists()
