"""AdamW with the parameter groups of the published recipes, which override learning rate, weight decay and layer decay."""

import torch
from detectron2.config import LazyCall as L

from flash_internimage.backbones.flash_internimage import layer_ids
from flash_internimage.solver import get_layer_decay_groups

optimizer = L(torch.optim.AdamW)(
    params=L(get_layer_decay_groups)(
        # params.model is set by the trainer
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
        layer_ids=layer_ids,
        layer_decay=1.0,  # ratio of the learning rate of a layer to that of the next deeper one
        offset_lr_scale=1.0,  # additional factor for layers that predict sampling offsets
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.05,
)
