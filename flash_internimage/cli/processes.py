"""Starts the processes of a run, for ``train``, ``eval`` and ``train_net.py``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import torch
from detectron2.utils import comm

from flash_internimage.engine.config import load_config
from flash_internimage.engine.distributed import launch
from flash_internimage.engine.run import run
from flash_internimage.engine.stopping import StoppedBySignal
from flash_internimage.views import ViewOptions

from .arguments import config_path
from .errors import UsageError, reported
from .terminal import escape_unprintable


def start(
    program: str, args: argparse.Namespace, overrides: Sequence[str], *, eval_only: bool, views: ViewOptions | None = None
) -> int:
    """Train or evaluate in as many processes as the arguments or the environment say, and return the exit code.

    Args:
        program: name of the program, with which error messages start.
        args: ``config_file``, ``trust_config``, ``resume``, for training ``overwrite``, and the flags of
            :func:`~flash_internimage.cli.arguments.add_processes`.
        overrides: ``key=value`` settings of the config.
        eval_only: evaluate instead of training.
        views: tiles and test-time augmentation of an evaluation.
    """
    escape_unprintable()
    first_process = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    with reported(program, silent=not first_process):
        overwrite = getattr(args, "overwrite", False)
        if args.resume and overwrite:
            raise UsageError("--resume continues the run that --overwrite would delete; give one of them")
        path = config_path(args.config_file)
        cfg = load_config(path, overrides, eval_only, trust_config=args.trust_config)  # report a mistake before processes start
        return launch(
            _run_in_process,
            args=(program, path, overrides, eval_only, args.resume, overwrite, args.trust_config, views),
            device=cfg.train.device,
            num_processes=args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
        )


def _run_in_process(
    device: torch.device,
    program: str,
    config_file: str,
    overrides: Sequence[str],
    eval_only: bool,
    resume: bool,
    overwrite: bool,
    trust_config: bool,
    views: ViewOptions | None,
) -> int:
    escape_unprintable()  # a process of its own has its own streams
    rank = comm.get_rank()
    with reported(program if rank == 0 else f"{program} (process {rank})"):
        try:
            run(
                device,
                config_file,
                overrides,
                eval_only=eval_only,
                resume=resume,
                overwrite=overwrite,
                trust_config=trust_config,
                views=views,
            )
        except StoppedBySignal as stopped:  # by all processes of the run
            if rank == 0:
                print(f"{program}: {stopped}", file=sys.stderr, flush=True)
            return stopped.exit_code
    return 0
