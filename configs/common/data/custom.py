"""Custom dataset, set by overrides: ``data.train.json=FILE data.train.images=DIR data.test.json=FILE data.test.images=DIR``."""

data = dict(
    train=dict(
        json=None,  # annotation file in COCO format; null: the registered datasets named in dataloader
        images=None,  # image folder
    ),
    test=dict(json=None, images=None),
    augmentation=None,  # none, flip, multi_scale_crop or large_scale_jitter; null: the augmentations listed in dataloader
)
