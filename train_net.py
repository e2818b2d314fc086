#!/usr/bin/env python
"""Train, resume or evaluate the detector that a config file describes; ``--help`` has examples."""

from __future__ import annotations

import os

# Threads that spin while they wait take the processor from those they wait for when cores are shared with another program:
# evaluation was seen to become fifteen times slower. OpenMP reads this when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import logging
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flash_internimage.checkpoint import Checkpointer, remove_unfinished
from flash_internimage.cli.arguments import parse_arguments
from flash_internimage.cli.errors import reported
from flash_internimage.collect_env import collect_env, format_table
from flash_internimage.data import (
    class_names,
    require_num_classes,
    require_registered,
    require_valid,
    use_augmentation_preset,
    use_custom_data,
)
from flash_internimage.engine.batch_size import fit_to_batch_size
from flash_internimage.engine.classes import ClassNames, require_same_classes
from flash_internimage.engine.config import load_config
from flash_internimage.engine.distributed import distribute, launch
from flash_internimage.engine.evaluation import evaluate
from flash_internimage.engine.hooks import BestCheckpoint, periodic_checkpoints
from flash_internimage.engine.output import RunLog, check_writable, require_state_of_run
from flash_internimage.engine.seeding import seed_everything
from flash_internimage.engine.trainer import StepOptions, Trainer, amp_dtype
from flash_internimage.engine.writers import build_writers
from flash_internimage.errors import UserError
from flash_internimage.evaluation import FastCOCOEvaluator
from flash_internimage.evaluation.report import REPORT_FILE, write_report
from flash_internimage.evaluation.validation_visualizations import ValidationVisualizer
from flash_internimage.solver.ema import ema_of_run

logger = logging.getLogger("flash_internimage")


def classes_of_data(cfg: DictConfig, *splits: str) -> list[str] | None:
    """Point the config at data of the user's own, if given, and check the datasets of ``splits`` (``train``, ``test``).

    Returns:
        Names of their classes, where they name them.
    """
    names = use_custom_data(cfg) if "data" in cfg else None
    if names is not None:
        return names
    given = [OmegaConf.select(cfg, f"dataloader.{split}.dataset.names") for split in splits]
    datasets = [name for names in given if names is not None for name in ([names] if isinstance(names, str) else names)]
    for dataset in datasets:
        require_registered(dataset)
        if comm.is_main_process():
            require_valid(dataset)
        require_num_classes(cfg, dataset)
    return class_names(datasets[0]) if datasets else None


def evaluate_checkpoint(cfg: DictConfig, device: torch.device, last: bool) -> None:
    """Evaluate ``train.init_checkpoint`` or the last of ``train.output_dir``: averaged weights where ``train.ema.enabled``."""
    classes = classes_of_data(cfg, "test")
    model = instantiate(cfg.model).to(device)
    checkpointer = Checkpointer(model, cfg.train.output_dir)
    state = checkpointer.load_complete(checkpointer.get_checkpoint_file() if last else cfg.train.init_checkpoint)
    require_same_classes(state.get("classes"), classes)
    average = ema_of_run(cfg.train.ema, model, state)
    evaluator = instantiate(cfg.dataloader.evaluator)
    evaluate(model if average is None else average.module, instantiate(cfg.dataloader.test), [evaluator])
    if comm.is_main_process() and isinstance(evaluator, FastCOCOEvaluator) and evaluator.output_dir is not None:
        report_evaluation(cfg, evaluator.output_dir)


def report_evaluation(cfg: DictConfig, folder: str) -> None:
    """Keep the config beside what an evaluation left in ``folder``; write ``report.html`` unless ``train.report`` is off."""
    saved = os.path.join(folder, "config.yaml")
    LazyConfig.save(cfg, saved)
    if not OmegaConf.select(cfg, "train.report", default=True):
        return
    target = os.path.join(cfg.train.output_dir, REPORT_FILE)
    with open(saved, encoding="utf-8") as file:
        write_report(folder, target, config=file.read(), environment=format_table(collect_env()))
    logger.info("Report: %s", target)


def train(cfg: DictConfig, device: torch.device, resume: bool, log: RunLog) -> None:
    """Train from ``train.init_checkpoint``, or from where the last run in ``train.output_dir`` stopped."""
    output_dir = cfg.train.output_dir
    check_writable(output_dir)
    classes = classes_of_data(cfg, "train", "test")
    use_augmentation_preset(cfg)
    fit_to_batch_size(cfg, comm.get_world_size())
    model = instantiate(cfg.model).to(device)
    checkpointer = Checkpointer(model, output_dir)
    resumed = resume and checkpointer.has_checkpoint()
    if resume and not resumed:
        logger.warning("--resume: no checkpoint in %s, the run starts from its beginning", output_dir)
    state = checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resumed)
    if resumed:
        require_state_of_run(state, output_dir)
        require_same_classes(state.get("classes"), classes)
    start = state["iteration"] + 1 if resumed else 0
    average = ema_of_run(cfg.train.ema, model, state if resumed else {})
    trainer = build_trainer(cfg, model, device, average, start)
    if resumed:
        trainer.load_state_dict(state["trainer"])

    checkpointer.add_checkpointable("trainer", trainer)
    if average is not None:
        checkpointer.add_checkpointable("ema", average)
    if classes is not None:
        checkpointer.add_checkpointable("classes", ClassNames(classes))
    trainer.register_hooks(build_hooks(cfg, model if average is None else average.module, checkpointer, resumed))
    if comm.is_main_process():
        os.makedirs(output_dir, exist_ok=True)
        remove_unfinished(output_dir)
        LazyConfig.save(cfg, os.path.join(output_dir, "config.yaml"))
    comm.synchronize()
    log.write_to(output_dir)
    trainer.train(start, cfg.train.max_iter)


def build_trainer(
    cfg: DictConfig, model: nn.Module, device: torch.device, average: AveragedModel | None, start: int
) -> Trainer:
    """The trainer that ``cfg.train`` describes, with batches from iteration ``start`` on."""
    options = StepOptions(
        seed=cfg.train.seed,
        accumulation_steps=cfg.train.accumulation_steps,
        amp_dtype=amp_dtype(cfg.train.amp.enabled, cfg.train.amp.dtype, device),
        max_grad_norm=cfg.train.clip_grad.max_norm,
        grad_norm_type=cfg.train.clip_grad.norm_type,
    )
    optimizer = deepcopy(cfg.optimizer)  # a config that holds a model can be saved no more
    optimizer.params.model = model
    loader = deepcopy(cfg.dataloader.train)
    if "start_iteration" in loader:
        loader.start_iteration = start
    elif start > 0:
        raise UserError("--resume: dataloader.train has no start_iteration, so this loader cannot continue where it stopped")
    return Trainer(
        distribute(model, device, **cfg.train.ddp), instantiate(loader), instantiate(optimizer), options, device, average
    )


def build_hooks(cfg: DictConfig, model: nn.Module, checkpointer: Checkpointer, resumed: bool) -> list[HookBase | None]:
    """What happens around the steps, in order: time, schedule, checkpoint, evaluation of ``model``, log."""
    options = cfg.train
    on_main = comm.is_main_process()
    best = options.best_checkpoint

    def evaluate_now() -> dict[str, Any]:
        evaluators = [instantiate(cfg.dataloader.evaluator)]
        number = OmegaConf.select(cfg, "train.validation_pictures", default=0)
        if number > 0 and isinstance(evaluators[0], FastCOCOEvaluator):
            evaluators.append(ValidationVisualizer(evaluators[0], number))
        return evaluate(model, instantiate(cfg.dataloader.test), evaluators)

    return [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        periodic_checkpoints(checkpointer, **options.checkpointer, resumed=resumed) if on_main else None,
        hooks.EvalHook(options.eval_period, evaluate_now),
        BestCheckpoint(checkpointer, options.eval_period, best.metric, best.mode, resumed) if on_main and best.metric else None,
        *(build_writers(cfg, resumed) if on_main else []),
    ]


def run(device: torch.device, args: argparse.Namespace) -> None:
    """What each process does."""
    rank = comm.get_rank()
    with reported("train_net.py" if rank == 0 else f"train_net.py (process {rank})"):
        cfg = load_config(args.config_file, args.overrides, args.eval_only)
        seed_everything(cfg.train.seed, rank=0, iteration=0)  # the same initial weights in all processes
        torch.backends.cudnn.benchmark = cfg.train.cudnn_benchmark and not args.eval_only
        with RunLog() as log:
            logger.info("%s with %s", args.config_file, " ".join(args.overrides) or "no overrides")
            logger.info("Process %d of %d on %s\n%s", rank, comm.get_world_size(), device, format_table(collect_env()))
            if args.eval_only:
                evaluate_checkpoint(cfg, device, args.resume)
            else:
                train(cfg, device, args.resume, log)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    first_process = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    with reported("train_net.py", silent=not first_process):
        cfg = load_config(args.config_file, args.overrides, args.eval_only)  # a mistake is told before processes start
        launch(
            run,
            args=(args,),
            device=cfg.train.device,
            num_processes=args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
        )


if __name__ == "__main__":
    main()
