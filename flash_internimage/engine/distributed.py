"""Launching of distributed runs from the command line, torchrun or SLURM.

Unlike detectron2's ``launch``, which starts the processes of a machine itself (in release 0.6 on GPUs only), this one also
joins processes that were started by torchrun or srun, on CPUs (gloo) or GPUs (nccl).
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import multiprocessing.connection
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from flash_internimage.errors import UserError

from .stopping import EXIT_CODE, INTERRUPTED_EXIT_CODE, handling

_TIMEOUT = datetime.timedelta(minutes=30)  # the main process may compute AP for long while the others wait
_GRACE_SECONDS = 5.0  # in which the other processes may report their own error after the first one has failed
_PR_SET_PDEATHSIG = 1  # man 2 prctl


@dataclass(frozen=True)
class Process:
    """Ranks of one process of a distributed run.

    Attributes:
        rank: global rank.
        world_size: number of processes.
        local_rank: rank among the processes of this machine.
        local_world_size: number of processes per machine; the same on all machines.
        init_method: rendezvous URL, as for ``torch.distributed.init_process_group``.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    init_method: str


def from_environment(environ: Mapping[str, str]) -> Process | None:
    """Return the ranks of a process started by torchrun or SLURM's srun; None if neither started it.

    Raises:
        UserError: the environment is torchrun's or SLURM's, but a variable is missing or not a number.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _from_torchrun(environ)
    if "SLURM_PROCID" in environ and ("SLURM_STEP_NUM_TASKS" in environ or "SLURM_NTASKS" in environ):
        return _from_slurm(environ)
    return None


def _from_torchrun(environ: Mapping[str, str]) -> Process:
    world_size = _integer(environ, "WORLD_SIZE")
    return Process(
        rank=_integer(environ, "RANK"),
        world_size=world_size,
        local_rank=_integer(environ, "LOCAL_RANK", default=0 if world_size == 1 else None),
        local_world_size=_integer(environ, "LOCAL_WORLD_SIZE", default=world_size),
        init_method="env://",
    )


def _from_slurm(environ: Mapping[str, str]) -> Process:
    world_size = _integer(environ, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS")
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST") or ""
    host = environ.get("MASTER_ADDR") or first_host(nodes) or "127.0.0.1"
    # Jobs on one machine need different ports; 15000 to 29999 are below the range of ephemeral ports.
    port = environ.get("MASTER_PORT") or str(15000 + _integer(environ, "SLURM_JOB_ID", default=0) % 15000)
    node_count = _integer(environ, "SLURM_STEP_NUM_NODES", default=_integer(environ, "SLURM_NNODES", default=1))
    return Process(
        rank=_integer(environ, "SLURM_PROCID"),
        world_size=world_size,
        local_rank=_integer(environ, "SLURM_LOCALID", default=_integer(environ, "SLURM_PROCID") % (world_size // node_count)),
        local_world_size=world_size // node_count,
        init_method=f"tcp://{host}:{port}",
    )


def first_host(nodes: str) -> str:
    """Return the first host of a SLURM node list: ``gpu[03-05,09],cpu1`` -> ``gpu03``."""
    match = re.match(r"(?P<prefix>[^,\[]+)(?:\[(?P<first>\d+)[^\]]*\](?P<suffix>[^,\[]*))?", nodes)
    return "" if match is None else match["prefix"] + (match["first"] or "") + (match["suffix"] or "")


def _integer(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdigit():
        raise UserError(f"environment variable {name}: expected a number, as torchrun and srun set it, got {text!r}")
    return int(text)


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device of this process; ``auto`` is the GPU with the index ``local_rank``, or the CPU without a GPU.

    Raises:
        UserError: the name is not a device of PyTorch, or the GPU does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"train.device={name}: expected auto, cpu, cuda or another device of PyTorch") from error
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = local_rank if device.index is None else device.index
    if index >= count:
        raise UserError(f"train.device={name}: process {local_rank} of this machine needs GPU {index}, PyTorch sees {count}")
    return torch.device("cuda", index)


def launch(
    main: Callable[..., int],
    args: tuple[Any, ...],
    *,
    device: str,
    num_processes: int | None = None,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> int:
    """Call ``main(device, *args)`` in each process of a run; return the exit code when all have finished.

    A process that torchrun or srun started joins its group. Otherwise ``num_processes`` are started on this machine. They are
    killed when this process ends for any reason, and receive its stop signals (:mod:`.stopping`).

    Args:
        main: an importable function that returns the exit code.
        device: as for :func:`resolve_device`.
        num_processes: number of processes on this machine, one per GPU. None: one, or as set by torchrun or srun.
        machine_rank: rank of this machine among ``num_machines``.
        dist_url: rendezvous URL, ``tcp://host:port``; "auto": a free port of this machine.

    Raises:
        UserError: the arguments contradict each other, or a process was killed.
    """
    is_distributed = num_machines > 1 or (num_processes or 1) > 1
    process = from_environment(os.environ)
    if process is not None and not (is_distributed and process.init_method != "env://"):
        return _run(process, main, device, args)
    local_world_size = num_processes or 1
    world_size = local_world_size * num_machines
    if not 0 <= machine_rank < num_machines:
        raise UserError(f"--machine-rank {machine_rank}: expected 0 to {num_machines - 1}, for --num-machines {num_machines}")
    if world_size > 1 and dist_url == "auto":
        if num_machines > 1:
            raise UserError("--num-machines: several machines need --dist-url tcp://HOST:PORT, the address of machine 0")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    resolve_device(device, local_world_size - 1)
    processes = [
        Process(machine_rank * local_world_size + i, world_size, i, local_world_size, dist_url) for i in range(local_world_size)
    ]
    if local_world_size == 1:
        return _run(processes[0], main, device, args)
    return _spawn(processes, main, device, args)


def _spawn(processes: list[Process], main: Callable[..., int], device: str, args: tuple[Any, ...]) -> int:
    """Start the processes of this machine and return their exit code; on the first failure the others are ended, too."""
    context = mp.get_context("spawn")
    children = [context.Process(target=_run_spawned, args=(os.getpid(), each, main, device, args)) for each in processes]
    received: list[int] = []
    sent: list[int] = []

    def forward(number: int) -> None:
        if number == signal.SIGINT in received:
            raise KeyboardInterrupt
        received.append(number)
        # Ctrl-C in a terminal reaches the children, too, for which a second SIGINT means to stop at once.
        sent.append(signal.SIGTERM if number == signal.SIGTERM else signal.SIGUSR1)
        for child in children:
            if child.pid is not None and child.exitcode is None:
                os.kill(child.pid, sent[-1])

    try:
        with handling(forward):
            for child in children:
                child.start()
            failed = _wait_for(children)
    finally:
        for child in children:
            if child.pid is not None:
                child.kill()
    if failed is None:
        return 0
    code = children[failed].exitcode or 0
    if received and (code in (EXIT_CODE, INTERRUPTED_EXIT_CODE) or -code in [*received, *sent]):
        return INTERRUPTED_EXIT_CODE if signal.SIGINT in received else EXIT_CODE
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        reason = "; the usual cause is that the machine has run out of memory" if -code == signal.SIGKILL else ""
        raise UserError(f"process {failed} of this machine was killed by {name}{reason}; continue with --resume")
    return code  # the process has reported its error


def _wait_for(children: list[Any]) -> int | None:
    """Wait until all processes have ended, or one of them has failed; return the index of that one, or None.

    The others then have a few seconds to end, too. A killed process comes first: errors of the others are its consequences.
    """
    # Each code is asked for once: processes that end between two questions would be taken for successful ones.
    while not any(codes := [child.exitcode for child in children]):
        if None not in codes:
            return None
        multiprocessing.connection.wait([child.sentinel for child, code in zip(children, codes, strict=True) if code is None])
    failed = next((i for i, code in enumerate(codes) if code is not None and code < 0), None)
    end = time.monotonic() + _GRACE_SECONDS
    for child in children:
        child.join(max(0.0, end - time.monotonic()))
    return next(i for i, code in enumerate(codes) if code) if failed is None else failed


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _run_spawned(parent: int, process: Process, main: Callable[..., int], device: str, args: tuple[Any, ...]) -> None:
    _end_with(parent)
    raise SystemExit(_run(process, main, device, args))


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends: a parent killed by SIGKILL cannot do it. Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended in the meantime
        os._exit(1)


def _run(process: Process, main: Callable[..., int], device_name: str, args: tuple[Any, ...]) -> int:
    device = resolve_device(device_name, process.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if process.world_size == 1:
        return main(device, *args)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // process.local_world_size))  # as torchrun does
    _join(process, device)
    code = main(device, *args)
    dist.barrier()  # a process that exits while another is still sending would make that one abort
    dist.destroy_process_group()  # not after an error: it would block until the other processes finish
    return code


def _join(process: Process, device: torch.device) -> None:
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        init_method=process.init_method,
        rank=process.rank,
        world_size=process.world_size,
        timeout=_TIMEOUT,
    )
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(process.local_world_size)
    else:  # detectron2 0.6 creates the local group in its own launch only
        for first in range(0, process.world_size, process.local_world_size):
            group = dist.new_group(list(range(first, first + process.local_world_size)))
            if first == process.rank - process.local_rank:
                comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()


def distribute(model: nn.Module, device: torch.device, **ddp_options: Any) -> nn.Module:
    """Wrap a model in ``DistributedDataParallel`` if there are several processes.

    Args:
        ddp_options: arguments of ``DistributedDataParallel``.
    """
    if comm.get_world_size() == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None, **ddp_options)
