"""DINO with four feature levels on FlashInternImage-L, 12 epochs, 16 images per step. Published: box AP 58.8."""

from detectron2.config import LazyCall as L

from flash_internimage.solver import get_named_groups

from ..common.models.flash_internimage import flash_internimage_l as _flash_internimage_l
from ..common.schedule import iterations
from .dino_4scale_flash_internimage_t_1x_coco import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone = _flash_internimage_l
train.init_checkpoint = "hf://OpenGVLab/DCNv4/flash_intern_image_l_22k_384.pth"

dataloader.train.total_batch_size = 16
train.reference_batch_size = 16
train.max_iter = iterations(epochs=12, batch_size=16)
train.eval_period = train.checkpointer.period = iterations(epochs=1, batch_size=16)

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05
optimizer.params = L(get_named_groups)(
    base_lr="${..lr}",
    weight_decay="${..weight_decay}",
    lr_multipliers={"backbone": 0.1},
)
