"""What a run needs to know beside model, data, optimizer and schedule: the published 1x recipe."""

from .schedule import iterations

train = dict(
    output_dir="./output",  # checkpoints, log, metrics, TensorBoard events and the config of the run
    init_checkpoint="",  # weights to start from, or to evaluate: a file, hf://ORG/REPO/FILE or https://…; "": random
    device="auto",  # "auto": the GPU, or the CPU where there is none; "cpu", "cuda"
    seed=0,  # initial weights, sample order, augmentation and sampling in the model follow from it
    # Schedule
    max_iter=iterations(epochs=12, batch_size=16),
    reference_batch_size=16,  # images a step, over all processes, that rate and schedule are written for
    scale_to_batch_size=False,  # fit both to dataloader.train.total_batch_size where that differs
    eval_period=iterations(epochs=1, batch_size=16),  # iterations between evaluations; 0: after the last only
    log_period=20,  # iterations between lines of the log, and of metrics
    validation_pictures=4,  # images drawn for TensorBoard at each evaluation, detections beside ground truth
    wandb=dict(  # Weights & Biases, which has to be installed
        enabled=False,
        project="flash-internimage",
        name=None,  # of the run; null: one is invented
    ),
    checkpointer=dict(
        period=iterations(epochs=1, batch_size=16),  # iterations between checkpoints
        max_to_keep=3,  # older ones are deleted; None, here or in a config: all are kept
    ),
    best_checkpoint=dict(
        metric="bbox/AP",  # the checkpoint where it is best is kept as model_best.pth; null: none
        mode="max",  # "max" or "min" is best
    ),
    report=True,  # --eval-only ends with report.html in output_dir; seconds at COCO's scale
    # One step
    accumulation_steps=1,  # parts in which a process passes its images of a step through the model, to save memory
    amp=dict(
        enabled=False,  # mixed precision
        dtype="bf16",  # "bf16", or "fp16" (GPU only; gradients are scaled)
    ),
    clip_grad=dict(
        max_norm=None,  # largest norm of the gradient over all parameters; null: no clipping
        norm_type=2.0,
    ),
    ema=dict(
        enabled=False,  # keep a running average of the weights and evaluate that
        momentum=0.0001,  # share of the newest weights in the average, after its warm-up
        warmup_iters=2000,  # time constant, in iterations, with which that share falls from 1
    ),
    ddp=dict(  # of torch's DistributedDataParallel
        broadcast_buffers=False,
        find_unused_parameters=False,
    ),
    cudnn_benchmark=False,  # search the fastest convolution for each input size: pays where sizes repeat
)
