"""DINO with four feature levels on FlashInternImage-T, 12 epochs. Published: box AP 54.7."""

from ..common.data.coco_boxes_multi_scale import data, dataloader
from ..common.models.dino import model
from ..common.optim import optimizer
from ..common.schedule import iterations
from ..common.schedule import lr_multiplier_dino_1x as lr_multiplier
from ..common.train import train

train.init_checkpoint = "hf://OpenGVLab/DCNv4/flash_intern_image_t_1k_224.pth"
train.clip_grad.max_norm = 0.1

train.reference_batch_size = 32
train.max_iter = iterations(epochs=12, batch_size=32)
train.eval_period = train.checkpointer.period = iterations(epochs=1, batch_size=32)

optimizer.lr = 2e-4
optimizer.weight_decay = 1e-4
optimizer.params.layer_decay = 0.9
