"""Mappers: pixels, boxes and masks of samples, and errors for unreadable images."""

import copy
import warnings

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data.transforms import AugInput, AugmentationList, RandomFlip, RandomRotation, ResizeShortestEdge
from detectron2.structures import BoxMode
from fvcore.transforms.transform import CropTransform
from PIL import Image

from flash_internimage.data import CopyPaste, MixUp, ResizeToFit, TestMapper, TrainingMapper
from flash_internimage.data.augmentations import ColorTransform
from flash_internimage.data.mapper import read_image
from flash_internimage.data.masks import segmentation_to_mask
from flash_internimage.data.resize import resize_bilinear, resize_nearest
from flash_internimage.data.shapes_drawing import compressed_rle, uncompressed_rle
from flash_internimage.errors import UserError


@pytest.fixture
def dataset_dict(tmp_path) -> dict:
    """Dataset dict of a noise image, 40 x 60 pixels, with a polygon, an RLE mask and a crowd region."""
    pixels = np.random.RandomState(5).randint(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 30:50] = True
    mask[12:14, 35:40] = False

    def annotation(category, box, segmentation, crowd=0):
        return {
            "category_id": category,
            "bbox": box,
            "bbox_mode": BoxMode.XYWH_ABS,
            "segmentation": segmentation,
            "iscrowd": crowd,
        }

    return {
        "file_name": str(tmp_path / "noise.png"),
        "height": 40,
        "width": 60,
        "image_id": 9,
        "annotation_file": "notes.json",
        "annotations": [
            annotation(3, [2, 4, 10, 20], [[2, 4, 12, 4, 12, 24, 2, 24]]),
            annotation(0, [30, 10, 20, 10], compressed_rle(mask)),
            annotation(1, [0, 0, 60, 40], uncompressed_rle(np.ones((40, 60), dtype=bool)), crowd=1),
        ],
    }


def pixels_of(dataset_dict: dict) -> np.ndarray:
    return np.asarray(Image.open(dataset_dict["file_name"]))


def test_without_augmentation(dataset_dict):
    before = copy.deepcopy(dataset_dict)
    sample = TrainingMapper([])(dataset_dict)
    assert dataset_dict == before
    assert "annotations" not in sample
    assert sample["image"].dtype == torch.uint8
    np.testing.assert_array_equal(sample["image"].permute(1, 2, 0).numpy(), pixels_of(dataset_dict))
    instances = sample["instances"]
    assert instances.image_size == (40, 60)
    assert instances.gt_classes.tolist() == [3, 0]  # the crowd region is skipped
    assert instances.gt_boxes.tensor.tolist() == [[2, 4, 12, 24], [30, 10, 50, 20]]
    assert instances.gt_masks.tensor.sum(dim=(1, 2)).tolist() == [10 * 20, 10 * 20 - 2 * 5]


def test_resized_image_boxes_and_masks(dataset_dict):
    sample = TrainingMapper([ResizeToFit([61], 1000)])(dataset_dict)  # 40 x 60 becomes 61 x 92: 91.5 rounds up
    image, instances = sample["image"], sample["instances"]
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), resize_bilinear(pixels_of(dataset_dict), 61, 92))
    x, y = 92 / 60, 61 / 40
    expected = torch.tensor([[2 * x, 4 * y, 12 * x, 24 * y], [30 * x, 10 * y, 50 * x, 20 * y]])
    torch.testing.assert_close(instances.gt_boxes.tensor, expected)
    for mask, annotation in zip(instances.gt_masks.tensor, dataset_dict["annotations"], strict=False):
        bitmap = segmentation_to_mask(annotation["segmentation"], 40, 60)
        np.testing.assert_array_equal(mask.numpy(), resize_nearest(bitmap, 61, 92).astype(bool))


def test_flip_applies_to_image_boxes_and_masks(dataset_dict):
    plain = TrainingMapper([])(dataset_dict)
    flipped = TrainingMapper([RandomFlip(prob=1.0)])(dataset_dict)
    torch.testing.assert_close(flipped["image"], plain["image"].flip(2))
    torch.testing.assert_close(flipped["instances"].gt_masks.tensor, plain["instances"].gt_masks.tensor.flip(2))
    x0, y0, x1, y1 = plain["instances"].gt_boxes.tensor.unbind(1)
    torch.testing.assert_close(flipped["instances"].gt_boxes.tensor, torch.stack([60 - x1, y0, 60 - x0, y1], dim=1))


def test_crop_clips_boxes_to_the_window_and_not_to_the_mask(dataset_dict):
    # The window is 25..60 x 12..40: the first object is outside, and two rows of the second are cropped.
    sample = TrainingMapper([CropTransform(25, 12, 35, 28, 60, 40)])(dataset_dict)
    instances = sample["instances"]
    assert instances.gt_classes.tolist() == [0]
    assert instances.gt_boxes.tensor.tolist() == [[5, 0, 25, 8]]
    np.testing.assert_array_equal(instances.gt_masks.tensor[0, :2, 10:15].numpy(), False)
    assert instances.gt_masks.tensor.sum() == 20 * 8 - 10


def test_object_with_an_empty_mask_is_kept_if_its_box_is_not_empty(dataset_dict):
    dataset_dict["annotations"][0]["segmentation"] = [[2, 4, 5, 4, 5, 24, 2, 24]]  # the left part of its box
    instances = TrainingMapper([CropTransform(6, 0, 20, 40, 60, 40)])(dataset_dict)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 4, 6, 24]]
    assert not instances.gt_masks.tensor.any()


@pytest.mark.parametrize("allow_empty", [True, False], ids=["kept", "rejected"])
def test_crop_without_objects(dataset_dict, allow_empty):
    sample = TrainingMapper([CropTransform(13, 0, 10, 40, 60, 40)], allow_empty=allow_empty)(dataset_dict)
    if not allow_empty:
        assert sample is None
        return
    instances = sample["instances"]
    assert len(instances) == 0
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_masks.tensor.shape == (0, 40, 10)


def test_image_without_annotations_is_not_rejected(dataset_dict):
    dataset_dict["annotations"] = []
    assert len(TrainingMapper([], allow_empty=False)(dataset_dict)["instances"]) == 0


def test_boxes_beyond_the_border_are_clipped(dataset_dict):
    dataset_dict["annotations"][0]["bbox"] = [-5, 30, 20, 30]
    assert TrainingMapper([])(dataset_dict)["instances"].gt_boxes.tensor[0].tolist() == [0, 30, 15, 40]


def test_without_masks_there_is_no_mask_field(dataset_dict):
    assert not TrainingMapper([], with_masks=False)(dataset_dict)["instances"].has("gt_masks")


def test_test_mapper_keeps_the_size_of_the_file(dataset_dict):
    sample = TestMapper([ResizeToFit([80], 1000)])(dataset_dict)
    assert (sample["height"], sample["width"]) == (40, 60)
    assert sample["image"].shape == (3, 80, 120)
    assert "annotations" not in sample
    assert "annotations" in dataset_dict


@pytest.mark.parametrize("kind", ["polygon", "compressed", "uncompressed"])
def test_every_kind_of_segmentation(kind):
    mask = np.zeros((9, 7), dtype=bool)
    mask[2:6, 1:5] = True
    segmentation = {
        "polygon": [[1, 2, 5, 2, 5, 6, 1, 6]],
        "compressed": compressed_rle(mask),
        "uncompressed": uncompressed_rle(mask),
    }[kind]
    np.testing.assert_array_equal(segmentation_to_mask(segmentation, 9, 7), mask)


def test_polygons_of_one_object_are_merged():
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 6, 4, 6, 6, 4, 6]]
    whole = segmentation_to_mask(parts, 8, 8)
    rles = mask_util.frPyObjects(parts, 8, 8)
    np.testing.assert_array_equal(whole, mask_util.decode(rles).max(axis=2))
    assert whole.sum() == 8


def test_error_of_a_missing_image_names_file_and_annotation(dataset_dict):
    dataset_dict["file_name"] += "x"
    with pytest.raises(UserError, match=r"noise\.pngx, referenced by image 9 of notes\.json, does not exist"):
        read_image(dataset_dict)


def test_error_of_a_truncated_jpeg_names_file_and_annotation(dataset_dict, tmp_path):
    file = tmp_path / "cut.jpg"
    Image.open(dataset_dict["file_name"]).save(file, quality=95)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    dataset_dict["file_name"] = str(file)
    message = r"cut\.jpg, referenced by image 9 of notes\.json, is not a readable image \(.*truncated"
    with pytest.raises(ValueError, match=message):
        read_image(dataset_dict)


def test_file_that_is_not_an_image(dataset_dict, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    dataset_dict["file_name"] = str(tmp_path / "text.jpg")
    with pytest.raises(ValueError, match=r"text\.jpg.* is not a readable image"):
        read_image(dataset_dict)


def test_wrong_size_is_an_error(dataset_dict):
    dataset_dict["width"] = 61
    with pytest.raises(ValueError, match="should be 61 x 40 pixels as annotated, but is 60 x 40"):
        read_image(dataset_dict)


def test_exif_orientation_is_applied(dataset_dict, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the camera was rotated: the image has to be rotated by 270 degrees
    image = Image.open(dataset_dict["file_name"])
    image.save(tmp_path / "rotated.png", exif=exif)
    rotated = {**dataset_dict, "file_name": str(tmp_path / "rotated.png"), "height": 60, "width": 40}
    np.testing.assert_array_equal(read_image(rotated), np.rot90(np.asarray(image), k=-1))
    with pytest.raises(ValueError, match="EXIF orientation"):
        read_image({**rotated, "height": 40, "width": 60})


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK"])
def test_color_modes_are_converted_to_rgb(dataset_dict, tmp_path, mode):
    file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.open(dataset_dict["file_name"]).convert(mode).save(file)
    assert read_image({**dataset_dict, "file_name": str(file)}).shape == (40, 60, 3)


TRANSFORMS = {
    "none": [],
    "resize": [ResizeToFit([57], 90)],
    "resize and flips": [ResizeToFit([23], 90), RandomFlip(1.0), RandomFlip(1.0, horizontal=False, vertical=True)],
    "crop between resizes": [ResizeToFit([50], 90), CropTransform(7, 11, 40, 30), ResizeToFit([60], 90), RandomFlip(1.0)],
    "colors": [ColorTransform(np.eye(3), 20.0), RandomFlip(1.0)],
    "detectron2's resize, which reads whole masks": [RandomFlip(1.0), ResizeShortestEdge([57, 57], 90)],
    "rotation, which reads whole masks": [RandomRotation([30, 30], expand=False)],
}


@pytest.mark.parametrize("augmentations", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_masks_in_windows_equal_transformed_bitmaps(dataset_dict, augmentations):
    random = np.random.RandomState(2)
    for segmentation in (
        [[-5.5, 30.25, 15, 30, 15, 45]],
        uncompressed_rle(np.zeros((40, 60), dtype=bool)),
        uncompressed_rle(np.ones((40, 60), dtype=bool)),
        compressed_rle(random.rand(40, 60) < 0.1),
        {"size": [40, 60], "counts": [0, 0, 400, 40, 1960, 0]},  # runs of length zero
    ):
        dataset_dict["annotations"].append(
            {**dataset_dict["annotations"][0], "bbox": [1, 1, 50, 30], "segmentation": segmentation}
        )
    objects = [a for a in dataset_dict["annotations"] if not a["iscrowd"]]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not writable")  # of torch, for the arrays of PIL
        sample = TrainingMapper(augmentations)(dataset_dict)
    transforms = AugmentationList(augmentations)(AugInput(pixels_of(dataset_dict)))
    expected = [transforms.apply_segmentation(segmentation_to_mask(a["segmentation"], 40, 60)) for a in objects]
    boxes = transforms.apply_box(np.array([BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]))
    height, width = sample["image"].shape[1:]
    boxes = boxes.clip(0, [width, height, width, height])
    kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    assert len(kept) > 3
    np.testing.assert_array_equal(sample["instances"].gt_masks.tensor.numpy(), np.stack([expected[i] for i in kept]) != 0)


def test_a_thousand_small_objects_take_little_memory(dataset_dict, tmp_path):
    Image.new("RGB", (1200, 800)).save(tmp_path / "crowded.png")
    corners = np.random.RandomState(0).rand(1000, 2) * [1150, 750]
    dataset_dict.update(file_name=str(tmp_path / "crowded.png"), height=800, width=1200)
    dataset_dict["annotations"] = [
        {
            **dataset_dict["annotations"][0],
            "bbox": [x, y, 30, 20],
            "segmentation": [[x, y, x + 30, y, x + 30, y + 20, x, y + 20]],
        }
        for x, y in corners.tolist()
    ]
    masks = TrainingMapper([ResizeToFit([800], 1333)])(dataset_dict)["instances"].gt_masks
    assert len(masks) == 1000
    assert masks.pixels.numel() < 1000 * 32 * 22


@pytest.mark.parametrize("counts", [[5, 10], "52"], ids=["counts", "compressed"])
@pytest.mark.parametrize("augmentations", [[], [RandomRotation([3, 4])]], ids=["windows", "whole masks"])
def test_a_mask_with_fewer_pixels_than_its_image_is_refused(dataset_dict, counts, augmentations):
    dataset_dict["annotations"][1]["segmentation"] = {"size": [40, 60], "counts": counts}
    with pytest.raises(UserError, match=r"of an image of 60 x 40 pixels has an RLE mask whose counts should sum to 2400"):
        TrainingMapper(augmentations)(dataset_dict)


def test_copy_paste_reads_masks_for_a_model_without(dataset_dict):
    mapper = TrainingMapper([], with_masks=False, combinations=[CopyPaste(prob=1.0)])
    mapper.dataset = [dataset_dict]
    sample = mapper(dataset_dict)
    assert not sample["instances"].has("gt_masks")
    assert len(sample["instances"]) >= 1
    del dataset_dict["annotations"][1]["segmentation"]
    with pytest.raises(
        UserError, match=r"copy_paste: expected masks of all objects, but an object of image 9 .* has none; use mosaic"
    ):
        mapper(dataset_dict)


def test_combinations_need_the_dataset(dataset_dict):
    with pytest.raises(UserError, match="combinations need its dataset to be set; build the loader with build_train_loader"):
        TrainingMapper([], combinations=[MixUp(prob=1.0)])(dataset_dict)


def test_pipeline_follows_the_augmentations_and_comes_before_combinations(dataset_dict):
    sizes = []

    def pipeline(sample):
        sizes.append(sample.size)
        return sample

    mapper = TrainingMapper([ResizeToFit([20], 30)], pipeline=pipeline, combinations=[MixUp(prob=1.0)])
    mapper.dataset = [dataset_dict]
    assert len(mapper(dataset_dict)["instances"]) > 2
    assert sizes == [(20, 30), (20, 30)]
