"""A config that trains the tiny detector for eight iterations, which takes a second."""

import torch
from detectron2.config import LazyCall as L

from tests.engine.tiny import TinyDetector, TinyEvaluator, TinyTrainLoader, all_parameters, tiny_test_loader

from ...configs.common.schedule import multi_step
from ...configs.common.train import train

model = L(TinyDetector)(num_classes=3, width=8)

dataloader = dict(
    train=L(TinyTrainLoader)(total_batch_size=4, start_iteration=0),
    test=L(tiny_test_loader)(),
    evaluator=L(TinyEvaluator)(),
)
optimizer = L(torch.optim.AdamW)(params=L(all_parameters)(model=None), lr=0.01, weight_decay=0.05)
lr_multiplier = multi_step(4, steps=[3])
lr_multiplier.warmup_iters = 3

train.max_iter = 8
train.eval_period = 4
train.log_period = 2
train.reference_batch_size = 4
train.checkpointer.period = 4
