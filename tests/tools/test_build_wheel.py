"""The names of wheels. tests/test_wheel.py installs one."""

import pytest


@pytest.mark.parametrize(
    ("torch_version", "cuda", "expected"),
    [("2.14.1+cu130", "13.0", "pt2.14.cu130"), ("2.6.0+cu124", None, "pt2.6.cpu"), ("2.8.0", "12.8", "pt2.8.cu128")],
    ids=["CUDA kernels", "CPU kernels alone", "PyTorch without a local version"],
)
def test_the_version_names_pytorch_and_cuda(tool, torch_version, cuda, expected):
    assert tool("build_wheel").local_version(torch_version, cuda) == expected
