"""A run: training or evaluating the detector that a config describes, in one of the processes of the run.

Checkpoints, data, solver and evaluation do not import each other; they meet here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flash_internimage.checkpoint import Checkpointer
from flash_internimage.checkpoint.fingerprint import weights_sha256
from flash_internimage.collect_env import collect_env, format_table
from flash_internimage.data import (
    Categories,
    dataset_categories,
    require_num_classes,
    require_registered,
    require_valid,
    use_augmentation_preset,
    use_custom_data,
)
from flash_internimage.errors import UserError
from flash_internimage.evaluation import FastCOCOEvaluator
from flash_internimage.evaluation.report import REPORT_FILE, write_report
from flash_internimage.evaluation.saved import remove_evaluation
from flash_internimage.evaluation.training_curves import find_metrics
from flash_internimage.evaluation.validation_visualizations import ValidationVisualizer
from flash_internimage.export.runtime import ExportedDetector, is_exported
from flash_internimage.files import remove_unfinished
from flash_internimage.solver.ema import ema_of_run
from flash_internimage.solver.freezing import freeze, require_filled
from flash_internimage.solver.lora import Adapters, LoRAOptions, add_adapters, require_same_adapters
from flash_internimage.solver.resume import OptimizerLayout, resumed_state
from flash_internimage.views import ViewOptions

from .auto_batch_size import AUTO, find_total_batch_size, require_gpu, resumed_batch_size
from .batch_size import BatchSize, fit_to_batch_size, require_same_batch_size
from .compilation import RequireCompiled, compile_for_training
from .config import load_config, save_config
from .distributed import distribute
from .early_stop import EarlyStop
from .evaluation import evaluate
from .exported import mapper_node
from .hooks import BestCheckpoint, EvaluationRecord, PeriodicCheckpoints
from .output import (
    RunLog,
    check_writable,
    locked_folder,
    remove_other_run,
    require_no_other_run,
    require_start_elsewhere,
    require_state_of_run,
)
from .seeding import seed_everything
from .stopping import StopRequest
from .trainer import StepOptions, Trainer, amp_dtype
from .validation_loss import TASK, validation_loader, validation_losses
from .views import chosen_views, set_views, with_views
from .writers import build_writers

CONFIG_FILE = "config.yaml"

logger = logging.getLogger("flash_internimage")


def run(
    device: torch.device,
    config_file: str,
    overrides: Sequence[str] = (),
    *,
    eval_only: bool,
    resume: bool,
    overwrite: bool = False,
    trust_config: bool = False,
    views: ViewOptions | None = None,
) -> None:
    """Train or evaluate in this process, one of those that :func:`~flash_internimage.engine.distributed.launch` starts.

    Args:
        device: the device of this process.
        config_file: the config's path, as :func:`~flash_internimage.engine.config.load_config` takes it.
        overrides: ``key=value`` settings of the config.
        eval_only: evaluate instead of training.
        resume: continue from, or evaluate, the last checkpoint in ``train.output_dir``.
        trust_config: see :func:`~flash_internimage.engine.config.load_config`.
        overwrite: start a new run in place of another one in ``train.output_dir``.
        views: tiles and test-time augmentation of an evaluation; None: as the config says.

    Raises:
        StoppedBySignal: a signal has stopped the training, with a checkpoint.
    """
    cfg = load_config(config_file, overrides, eval_only, trust_config=trust_config)
    seed_everything(cfg.train.seed, rank=0, iteration=0)  # the same initial weights in all processes
    torch.backends.cudnn.benchmark = cfg.train.cudnn_benchmark and not eval_only
    with RunLog() as log:
        logger.info("%s with %s", config_file, " ".join(overrides) or "no overrides")
        logger.info("Process %d of %d on %s\n%s", comm.get_rank(), comm.get_world_size(), device, format_table(collect_env()))
        output_dir = cfg.train.output_dir
        check_writable(output_dir)
        with locked_folder(output_dir, comm.is_main_process()):
            if eval_only:
                evaluate_checkpoint(cfg, device, resume, views)
            else:
                with StopRequest().listening() as stop:
                    train(cfg, device, log, resume=resume, overwrite=overwrite, stop=stop)


def train(
    cfg: DictConfig,
    device: torch.device,
    log: RunLog,
    *,
    resume: bool,
    overwrite: bool = False,
    stop: StopRequest | None = None,
) -> None:
    """Train from ``train.init_checkpoint``, or, with ``resume``, from the last checkpoint in ``train.output_dir``."""
    output_dir = cfg.train.output_dir
    if comm.is_main_process() and overwrite:
        require_start_elsewhere(output_dir, cfg.train.init_checkpoint)
    elif comm.is_main_process() and not resume:
        require_no_other_run(output_dir)
    lora = LoRAOptions.from_config(OmegaConf.select(cfg, "train.lora"))
    categories = categories_of_data(cfg, "train", "test")
    use_augmentation_preset(cfg)
    automatic = cfg.dataloader.train.get("total_batch_size") == AUTO
    if not automatic:
        fit_to_batch_size(cfg, comm.get_world_size())
    elif not resume:
        require_gpu(device)
    model = instantiate(cfg.model).to(device)
    frozen = freeze(model, OmegaConf.select(cfg, "train.freeze"))  # configs saved by earlier versions have no such key
    checkpointer = Checkpointer(model, output_dir)
    last = checkpointer.get_checkpoint_file() if resume else ""
    resumed = bool(last)
    if resume and not resumed:
        logger.warning("--resume: no checkpoint in %s, the run starts from its beginning", output_dir)
    state = checkpointer.load(last) if resumed else checkpointer.load(cfg.train.init_checkpoint, checkpointables=[])
    unfilled = checkpointer.unfilled()  # before adapters are added, which a state dict merges
    source = last or cfg.train.init_checkpoint
    require_filled("train.freeze", frozen, unfilled, source, "freeze only modules that it fills")
    if resumed:
        require_state_of_run(state, output_dir)
        require_same_adapters(state.get("adapters"), lora)
        if categories is not None:
            categories.require_names(state.get("classes"))
    start = state["iteration"] + 1 if resumed else 0
    if lora is not None:
        require_filled("train.lora", add_adapters(model, lora), unfilled, source)
    average = ema_of_run(cfg.train.ema, model, state if resumed else {})
    if lora is not None:
        # For --resume only: the weights of the checkpoint are merged, so that it loads as an ordinary detector without this.
        adapters = Adapters(lora, model, None if average is None else average.module)
        checkpointer.add_checkpointable("adapters", adapters)
        if resumed:
            adapters.load_state_dict(state["adapters"])
    if automatic:
        cfg.dataloader.train.total_batch_size = (
            resumed_batch_size(state.get("batch_size"), last)
            if resumed
            else find_total_batch_size(cfg, model, partial(build_optimizer, cfg, model), step_options(cfg, device), device)
        )
        cfg.train.scale_to_batch_size = True
        fit_to_batch_size(cfg, comm.get_world_size())
    batch_size = BatchSize.of(cfg)
    if resumed:
        require_same_batch_size(state.get("batch_size"), batch_size, last)
        _require_not_beyond_end(start, cfg.train.max_iter, last)
    # After the moving average has copied the model: the copy of a compiled forward would run the original.
    compiled = compile_for_training(model) if OmegaConf.select(cfg, "train.compile", default=False) else []
    trainer = build_trainer(cfg, model, device, average, start, stop)
    if resumed:
        resume_trainer(trainer, model, state, last)

    checkpointer.add_checkpointable("trainer", trainer)
    checkpointer.add_checkpointable("batch_size", batch_size)
    checkpointer.add_checkpointable("optimizer_layout", OptimizerLayout.of(trainer.optimizer, model))
    if average is not None:
        checkpointer.add_checkpointable("ema", average)
    if categories is not None:
        checkpointer.add_checkpointable("classes", categories)
    built = build_hooks(cfg, model if average is None else average.module, device, checkpointer, start, trainer.stop)
    ending = early_stop(cfg, built)
    trainer.register_hooks(built)
    if comm.is_main_process():
        if overwrite:  # last, so that no earlier error costs the old run; but before the writers, which open the files
            remove_other_run(output_dir)
        trainer.register_hooks(build_writers(cfg, resumed))
    # After the writers: an evaluation counts when its metrics are written.
    evaluation = [hook for hook in built if isinstance(hook, hooks.EvalHook | BestCheckpoint)]
    trainer.register_hooks([EvaluationRecord(output_dir, cfg.train.eval_period, cfg.train.log_period, evaluation)])
    trainer.register_hooks([ending, RequireCompiled(compiled) if compiled else None])
    if comm.is_main_process():
        remove_unfinished(output_dir)
        save_config(cfg, os.path.join(output_dir, CONFIG_FILE))
    comm.synchronize()
    log.write_to(output_dir)
    trainer.train(start, cfg.train.max_iter)


def build_trainer(
    cfg: DictConfig,
    model: nn.Module,
    device: torch.device,
    average: AveragedModel | None,
    start: int,
    stop: StopRequest | None = None,
) -> Trainer:
    """Build the trainer that ``cfg.train`` describes; its loader starts with the batch of iteration ``start``."""
    loader = deepcopy(cfg.dataloader.train)
    if "start_iteration" in loader:
        loader.start_iteration = start
    elif start > 0:
        raise UserError("--resume: dataloader.train has no start_iteration, so this loader cannot continue where it stopped")
    optimizer = build_optimizer(cfg, model)
    return Trainer(
        distribute(model, device, **cfg.train.ddp),
        instantiate(loader),
        optimizer,
        step_options(cfg, device),
        device,
        average,
        stop,
    )


def step_options(cfg: DictConfig, device: torch.device) -> StepOptions:
    """Return the options of a training step that ``cfg.train`` describes."""
    return StepOptions(
        seed=cfg.train.seed,
        accumulation_steps=cfg.train.accumulation_steps,
        amp_dtype=amp_dtype(cfg.train.amp.enabled, cfg.train.amp.dtype, device),
        max_grad_norm=cfg.train.clip_grad.max_norm,
        grad_norm_type=cfg.train.clip_grad.norm_type,
    )


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that ``cfg.optimizer`` describes, of the parameters of a model."""
    optimizer = deepcopy(cfg.optimizer)  # a config that holds a model can no longer be saved
    optimizer.params.model = model
    return instantiate(optimizer)


def _require_not_beyond_end(start: int, max_iter: int, checkpoint: str) -> None:
    """Raise an exception if a run was to continue after its last iteration; a finished one may be resumed.

    Raises:
        UserError: the first iteration is beyond ``max_iter``.
    """
    if start > max_iter:
        raise UserError(
            f"--resume: {checkpoint} was saved after {start} iterations, but train.max_iter={max_iter}; raise train.max_iter, "
            f"or set train.init_checkpoint={checkpoint} and another train.output_dir, without --resume"
        )


def resume_trainer(trainer: Trainer, model: nn.Module, state: Mapping[str, Any], checkpoint: str) -> None:
    """Load the training state of a checkpoint; the optimizer's settings remain those of the config.

    Args:
        model: the model, not wrapped for distributed training.
        state: contents of the checkpoint other than the model.
        checkpoint: path of the checkpoint, for messages.

    Raises:
        UserError: the state belongs to another optimizer, or to other parameters.
    """
    saved = state["trainer"]
    layout = OptimizerLayout.from_state_dict(state.get("optimizer_layout"))
    try:
        fitted, changes = resumed_state(saved["optimizer"], layout, trainer.optimizer, model)
    except UserError as error:
        raise UserError(
            f"--resume: {checkpoint} cannot be resumed: {error}; start from its weights instead, without --resume: "
            f"train.init_checkpoint={checkpoint} train.output_dir=NEW_FOLDER"
        ) from error
    if changes:
        logger.info("Resuming with the optimizer settings of the config instead of the checkpoint's: %s", changes)
    trainer.load_state_dict({**saved, "optimizer": fitted})


def build_hooks(
    cfg: DictConfig, model: nn.Module, device: torch.device, checkpointer: Checkpointer, start: int, stop: StopRequest
) -> list[HookBase | None]:
    """Build the hooks of a training run, except its writers, in the order of their calls.

    Args:
        model: the model to evaluate.
        device: device of the model.
        start: first iteration of this part of the run; above 0 if it was resumed.
        stop: request to stop, which an evaluation observes, too.

    Raises:
        UserError: the validation losses are enabled, but the test data has no annotations.
    """
    options = cfg.train
    on_main = comm.is_main_process()
    best = options.best_checkpoint
    resumed = start > 0
    validation = validation_loader(cfg) if OmegaConf.select(cfg, "train.val_loss", default=False) else None

    def evaluate_now() -> dict[str, Any]:
        evaluators = [instantiate(cfg.dataloader.evaluator)]
        number = OmegaConf.select(cfg, "train.validation_pictures", default=0)
        if number > 0 and isinstance(evaluators[0], FastCOCOEvaluator):
            evaluators.append(ValidationVisualizer(evaluators[0], number))
        iteration = min(get_event_storage().iter, options.max_iter - 1)
        results = evaluate_and_replace(cfg, model, evaluators, stop, iteration)
        if validation is None:
            return results
        losses = validation_losses(model, validation, options.seed, device, stop, iteration)
        return {**results, TASK: losses} if losses else results

    return [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        PeriodicCheckpoints(checkpointer, **options.checkpointer, start=start) if on_main else None,
        hooks.EvalHook(options.eval_period, evaluate_now),
        BestCheckpoint(checkpointer, options.eval_period, best.metric, best.mode, resumed) if on_main and best.metric else None,
    ]


def early_stop(cfg: DictConfig, built: Sequence[HookBase | None]) -> EarlyStop | None:
    """Build the hook of ``train.early_stop``; None if it is disabled.

    Args:
        built: the hooks of :func:`build_hooks`, with that of the best checkpoint.

    Raises:
        UserError: the patience is invalid, or there is no best checkpoint or no periodic evaluation to count.
    """
    patience = OmegaConf.select(cfg, "train.early_stop.patience")  # configs saved by earlier versions have no such section
    if patience is None:
        return None
    if not cfg.train.best_checkpoint.metric:
        raise UserError(
            f"train.early_stop.patience={patience}: needs the metric of the best checkpoint; set train.best_checkpoint.metric"
        )
    best = next((hook for hook in built if isinstance(hook, BestCheckpoint)), None)
    return EarlyStop(best, cfg.train.eval_period, patience)


def evaluate_checkpoint(cfg: DictConfig, device: torch.device, last: bool, views: ViewOptions | None = None) -> None:
    """Evaluate ``train.init_checkpoint``, or the last checkpoint in ``train.output_dir`` if ``last`` is set.

    ``train.init_checkpoint`` may be an exported file, which resizes images as it was exported. The averaged weights are
    evaluated if ``train.ema.enabled`` is set.

    Args:
        views: tiles and test-time augmentation; None, or the whole image: those of the config.
    """
    if comm.is_main_process():
        remove_unfinished(cfg.train.output_dir)
    categories = categories_of_data(cfg, "test")
    views = chosen_views(cfg, ViewOptions() if views is None else views)
    if not last and is_exported(cfg.train.init_checkpoint):
        exported = ExportedDetector(cfg.train.init_checkpoint, device)
        cfg.dataloader.test.mapper = mapper_node(exported.metadata)
        model: nn.Module = exported
        names: Sequence[str] | None = exported.metadata.class_names
    else:
        model, names = _load_complete(cfg, device, last)
    if categories is not None:
        categories.require_names(names)
    if not views.is_whole_image:
        set_views(cfg, views)
    evaluator = instantiate(cfg.dataloader.evaluator)
    results = evaluate_and_replace(cfg, model, [evaluator])
    if comm.is_main_process() and isinstance(evaluator, FastCOCOEvaluator) and evaluator.output_dir is not None:
        # Where the checkpoint is, its training has written its metrics.
        run_folder = cfg.train.output_dir if last else os.path.dirname(os.path.abspath(cfg.train.init_checkpoint))
        report_evaluation(cfg, evaluator.output_dir, results, find_metrics([Path(run_folder)]))


def _load_complete(cfg: DictConfig, device: torch.device, last: bool) -> tuple[nn.Module, Sequence[str] | None]:
    """The model to evaluate, and the class names in its checkpoint; None if it has none."""
    model = instantiate(cfg.model).to(device)
    checkpointer = Checkpointer(model, cfg.train.output_dir)
    state = checkpointer.load_complete(checkpointer.get_checkpoint_file() if last else cfg.train.init_checkpoint)
    average = ema_of_run(cfg.train.ema, model, state)
    return (model if average is None else average.module), state.get("classes")


def evaluate_and_replace(
    cfg: DictConfig,
    model: nn.Module,
    evaluators: Sequence[DatasetEvaluator],
    stop: StopRequest | None = None,
    iteration: int = 0,
) -> dict[str, Any]:
    """Evaluate a model on the test data, after deleting the files of an earlier evaluation.

    Otherwise an evaluation that does not write all of them, for lack of annotations or because it fails, would leave the
    metrics of another one beside its own files. A fingerprint of the weights is written with the metrics.

    Args:
        stop: request to stop during the evaluation.
        iteration: last iteration of the training, for messages.

    Returns:
        Metrics by task; empty except on the main process, and for data without annotations.
    """
    output_dir = Path(cfg.train.output_dir)
    if comm.is_main_process():
        (output_dir / REPORT_FILE).unlink(missing_ok=True)
        for evaluator in evaluators:
            if isinstance(evaluator, FastCOCOEvaluator) and evaluator.output_dir is not None:
                if not isinstance(model, ExportedDetector):
                    evaluator.weights_sha256 = weights_sha256(model.state_dict())
                folder = Path(evaluator.output_dir)
                remove_evaluation(folder)
                remove_unfinished(folder)
                if folder.absolute() != output_dir.absolute():  # in output_dir it is the config of the run
                    (folder / CONFIG_FILE).unlink(missing_ok=True)
    return evaluate(with_views(cfg, model), instantiate(cfg.dataloader.test), evaluators, stop, iteration)


def report_evaluation(cfg: DictConfig, folder: str, results: Mapping[str, Any], training_metrics: Path | None = None) -> None:
    """Save the config beside the files of an evaluation, and write ``report.html`` if there are metrics to report.

    Args:
        cfg: config of the evaluation; ``train.report=false`` omits the report.
        folder: where the evaluator wrote its files.
        results: metrics by task; empty for data without annotations.
        training_metrics: ``metrics.json`` of the training, whose curves the report shows; None if unavailable.
    """
    saved = os.path.join(folder, CONFIG_FILE)
    save_config(cfg, saved)
    if not results or not OmegaConf.select(cfg, "train.report", default=True):
        return
    target = os.path.join(cfg.train.output_dir, REPORT_FILE)
    with open(saved, encoding="utf-8") as file:
        write_report(folder, target, config=file.read(), environment=format_table(collect_env()), metrics=training_metrics)
    logger.info("Report: %s", target)


def categories_of_data(cfg: DictConfig, *splits: str) -> Categories | None:
    """Apply ``data.*`` to the config if it is set, and validate the datasets of ``splits`` (``train``, ``test``).

    Returns:
        The categories of the datasets; None if a dataset does not name them.
    """
    categories = use_custom_data(cfg, splits) if "data" in cfg else None
    if categories is not None:
        return categories
    given = [OmegaConf.select(cfg, f"dataloader.{split}.dataset.names") for split in splits]
    datasets = [name for names in given if names is not None for name in ([names] if isinstance(names, str) else names)]
    for dataset in datasets:
        require_registered(dataset)
        if comm.is_main_process():
            require_valid(dataset)
        require_num_classes(cfg, dataset)
    return dataset_categories(datasets[0]) if datasets else None
