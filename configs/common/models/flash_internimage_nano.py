"""FlashInternImage with 1.6 million parameters for small datasets and tests; not a published size."""

from .flash_internimage import flash_internimage_t as _flash_internimage_t

flash_internimage_nano = _flash_internimage_t
flash_internimage_nano.channels = 32
flash_internimage_nano.depths = [1, 1, 2, 1]
flash_internimage_nano.groups = [2, 4, 8, 16]
flash_internimage_nano.drop_path_rate = 0.0
flash_internimage_nano.with_cp = False
