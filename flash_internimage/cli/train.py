"""Starting the processes of a run."""

from __future__ import annotations

import argparse
import os

import torch
from detectron2.utils import comm

from flash_internimage.engine.config import load_config
from flash_internimage.engine.distributed import launch
from flash_internimage.engine.run import run

from .errors import reported


def start(args: argparse.Namespace, program: str) -> None:
    """Train or evaluate, in as many processes as the arguments or the environment say.

    Args:
        args: the flags of ``train_net.py``.
        program: what error messages start with.
    """
    first_process = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    with reported(program, silent=not first_process):
        cfg = load_config(args.config_file, args.overrides, args.eval_only)  # report a mistake before processes start
        launch(
            _in_process,
            args=(args, program),
            device=cfg.train.device,
            num_processes=args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
        )


def _in_process(device: torch.device, args: argparse.Namespace, program: str) -> None:
    rank = comm.get_rank()
    with reported(program if rank == 0 else f"{program} (process {rank})"):
        run(device, args.config_file, args.overrides, eval_only=args.eval_only, resume=args.resume)
