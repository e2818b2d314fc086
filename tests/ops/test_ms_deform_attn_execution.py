"""Multi-scale deformable attention gives the same results for any number of threads."""

import pytest
import torch

from flash_internimage.ops import ms_deform_attn
from tests.ops.test_ms_deform_attn import CASES, draw, value_and_gradients


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "case",
    [CASES["four levels, as in DINO"], CASES["one channel, one point, one head"]],
    ids=["many heads", "many queries for one head"],
)
def test_result_is_bitwise_equal_for_any_number_of_threads(case, dtype):
    case = case | dict(queries=300)
    inputs = draw(**case, dtype=dtype)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            results.append(value_and_gradients(ms_deform_attn, *inputs))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(first, second) for first, second in zip(results[0], other, strict=True))
