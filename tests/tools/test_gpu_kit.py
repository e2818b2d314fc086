"""The folder for a bare machine with a GPU."""

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
