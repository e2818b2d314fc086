"""Model zoo of the published detectors: ``model_zoo.get("mask_rcnn_flash_intern_image_t_fpn_1x_coco", trained=True)``."""

from .zoo import config_path, get, get_checkpoint, get_config, list

__all__ = ["config_path", "get", "get_checkpoint", "get_config", "list"]
