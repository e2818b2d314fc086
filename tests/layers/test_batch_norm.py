import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.testing import assert_close

from flash_internimage.layers import SyncBatchNorm
from tests.two_processes import leave

CHANNELS = 3
# Batch sizes of two processes; together they are one batch of seven samples.
SHARES = {"uneven": (2, 5), "one empty": (7, 0)}


def fresh(norm_class: type) -> nn.BatchNorm2d:
    norm = norm_class(CHANNELS).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def whole_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs with a mean far from zero, and the weights of the outputs in the loss."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(7, CHANNELS, 4, 5, dtype=torch.float64, generator=generator) + 1000,
        torch.randn(7, CHANNELS, 4, 5, dtype=torch.float64, generator=generator),
    )


@pytest.mark.parametrize("training", [True, False])
def test_one_process_equals_batch_norm(training):
    torch.manual_seed(1)
    ours = fresh(SyncBatchNorm).train(training)
    plain = nn.BatchNorm2d(CHANNELS).double().train(training)
    plain.load_state_dict(ours.state_dict())
    input, _ = whole_batch()
    assert_close(ours(input), plain(input))
    assert_close(ours.state_dict(), plain.state_dict())


def test_an_empty_batch_keeps_the_statistics_and_gives_zero_gradients():
    norm = fresh(SyncBatchNorm).train()
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    output = norm(torch.zeros(0, CHANNELS, 4, 5, dtype=torch.float64))
    output.sum().backward()
    assert output.shape == (0, CHANNELS, 4, 5)
    assert norm.weight.grad.tolist() == norm.bias.grad.tolist() == [0] * CHANNELS
    assert_close(dict(norm.named_buffers()), before)


def _run_process(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for name, shares in SHARES.items():
        torch.manual_seed(1)
        norm = fresh(SyncBatchNorm).train()
        mine = slice(0, shares[0]) if rank == 0 else slice(shares[0], None)
        input, weights = (tensor[mine] for tensor in whole_batch())
        input.requires_grad_()
        output = norm(input)
        (output * weights).sum().backward()
        for parameter in norm.parameters():
            dist.all_reduce(parameter.grad)
        arrays = {"output": output.detach(), "input": input.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
        torch.save({**arrays, "state": norm.state_dict()}, f"{folder}/{name} {rank}.pt")
    leave()


@pytest.mark.slow
def test_two_processes_equal_one_process_with_the_whole_batch(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_run_process, args=(port, str(tmp_path)), nprocs=2)

    torch.manual_seed(1)
    norm = fresh(nn.BatchNorm2d).train()
    input, weights = whole_batch()
    input.requires_grad_()
    output = norm(input)
    (output * weights).sum().backward()
    for name in SHARES:
        first, second = (torch.load(tmp_path / f"{name} {rank}.pt", weights_only=True) for rank in range(2))
        assert_close(torch.cat([first["output"], second["output"]]), output.detach(), rtol=1e-8, atol=1e-8)
        assert_close(torch.cat([first["input"], second["input"]]), input.grad, rtol=1e-7, atol=1e-9)
        for process in (first, second):
            assert_close(process["weight"], norm.weight.grad, rtol=1e-7, atol=1e-9)
            assert_close(process["bias"], norm.bias.grad)
            assert_close(process["state"], norm.state_dict(), rtol=1e-8, atol=1e-8)
