"""Data of one's own: on the command line, ``data.train.json=… data.train.images=… data.test.json=… data.test.images=…``."""

data = dict(
    train=dict(
        json=None,  # annotation file in COCO's format; null: the datasets that dataloader names
        images=None,  # folder of its images
    ),
    test=dict(json=None, images=None),
    augmentation=None,  # none, flip, multi_scale_crop or large_scale_jitter; null: what dataloader lists
)
