"""Custom dataset, set by overrides, such as ``data.root=FOLDER``."""

data = dict(
    train=dict(  # all null: the registered datasets named in dataloader
        json=None,  # annotation file in COCO format, with images
        images=None,  # image folder
        yolo=None,  # data.yaml of a YOLO dataset
        voc=None,  # folder of a Pascal VOC dataset
        split=None,  # split of a YOLO or VOC dataset or of root: train, val or test; null: train
    ),
    test=dict(json=None, images=None, yolo=None, voc=None, split=None),  # null: val or, without one, test
    root=None,  # folder that an annotation tool has exported; its format is recognized
    val_fraction=None,  # fraction of the training images to hold out at random, in place of test data
    val_seed=0,  # seed of that draw
    val_split=None,  # file with the images held out; set when they are drawn, and saved with the config
    # none, flip, multi_scale_crop or large_scale_jitter; photometric, copy_paste, mosaic, mixup; a list combines them; null:
    # the augmentations listed in dataloader
    augmentation=None,
)
