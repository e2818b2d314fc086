"""Trainer settings, with the values of the published 1x recipe."""

from .schedule import iterations

train = dict(
    output_dir="./output",  # folder for checkpoints, log, metrics, TensorBoard events and the config of the run
    init_checkpoint="",  # weights to start from or to evaluate: a file, hf://ORG/REPO/FILE or https://URL; "": random
    device="auto",  # "cuda", "cpu", or "auto": the GPU if there is one, otherwise the CPU
    seed=0,  # seeds initial weights, sample order, augmentation and sampling in the model
    # Schedule
    max_iter=iterations(epochs=12, batch_size=16),
    reference_batch_size=16,  # images per step, over all processes, that learning rate and schedule are specified for
    scale_to_batch_size=False,  # scale both if dataloader.train.total_batch_size differs
    eval_period=iterations(epochs=1, batch_size=16),  # iterations between evaluations; 0: only after the last iteration
    log_period=20,  # iterations between log lines and metrics
    val_loss=False,  # at each evaluation also compute the losses on the test data; a second pass over it
    validation_pictures=4,  # images per evaluation to visualize in TensorBoard, detections beside ground truth
    wandb=dict(  # Weights & Biases, to be installed separately
        enabled=False,
        project="flash-internimage",
        name=None,  # name of the run; null: generated
    ),
    mlflow=dict(  # MLflow, to be installed separately
        enabled=False,
        experiment="flash-internimage",
        name=None,  # name of the run; null: generated
        tracking_uri=None,  # server or sqlite:///mlflow.db; null: MLflow's default, such as MLFLOW_TRACKING_URI
    ),
    clearml=dict(  # ClearML, to be installed separately
        enabled=False,
        project="flash-internimage",
        name=None,  # name of the task; null: chosen by ClearML
    ),
    checkpointer=dict(
        period=iterations(epochs=1, batch_size=16),  # iterations between checkpoints
        max_to_keep=3,  # older ones are deleted; None, here or in a config: keep all
    ),
    best_checkpoint=dict(
        metric="bbox/AP",  # the checkpoint with the best value is kept as model_best.pth; null: disabled
        mode="max",  # best value: "max" or "min"
    ),
    early_stop=dict(
        patience=None,  # end after this many evaluations without a new best checkpoint; null: never
    ),
    report=True,  # --eval-only writes report.html to output_dir; takes seconds at COCO's size
    freeze=None,  # module to freeze, such as "backbone", or a list of them: no gradient, running statistics kept; null: none
    lora=dict(  # adapters on the linear layers of the backbone (DINO: and encoder and decoder), whose weights are frozen
        rank=None,  # rank of the adapters, such as 8; null: none. Needs peft
        alpha=None,  # the adapters are scaled by alpha / rank; null: rank
        dropout=0.0,  # on the inputs of the adapters
    ),
    # Training step
    compile=False,  # compile backbone and neck with torch.compile: minutes at the start, and for some further sizes
    accumulation_steps=1,  # gradient accumulation: split a process's images of a step into this many parts, to save memory
    amp=dict(
        enabled=False,  # mixed precision
        dtype="bf16",  # "bf16", or "fp16" (GPU only, with gradient scaling)
    ),
    clip_grad=dict(
        max_norm=None,  # maximum norm of the gradient over all parameters; null: no clipping
        norm_type=2.0,
    ),
    ema=dict(
        enabled=False,  # keep an exponential moving average of the weights and evaluate it
        momentum=0.0001,  # weight of the current parameters in the average, after the warm-up
        warmup_iters=2000,  # time constant, in iterations, of the decay of that weight from 1
    ),
    ddp=dict(  # arguments of torch's DistributedDataParallel
        broadcast_buffers=False,
        find_unused_parameters=False,
    ),
    cudnn_benchmark=False,  # search the fastest convolution per input size; helps if sizes repeat
)
