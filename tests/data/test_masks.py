"""Masks that are rasterized and transformed together equal those that are transformed one by one, as whole images."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data.transforms import CropTransform, HFlipTransform, NoOpTransform, TransformList, VFlipTransform
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_internimage.data.augmentations import ExactResizeTransform
from flash_internimage.data.masks import segmentation_to_mask, transform_masks
from flash_internimage.data.resize import resize_nearest


def one_by_one(segmentations: list, transforms: list, size: tuple[int, int]) -> list[np.ndarray]:
    """Rasterize each segmentation alone, and transform the whole bitmap step by step."""
    masks = [segmentation_to_mask(segmentation, *size) for segmentation in segmentations]
    for transform in transforms:
        if isinstance(transform, ExactResizeTransform):
            masks = [resize_nearest(mask, transform.new_height, transform.new_width) for mask in masks]
        else:
            masks = [transform.apply_image(mask) for mask in masks]
    return masks


def segmentation(random: np.random.RandomState, height: int, width: int) -> list | dict:
    """Draw one or two polygons, or an RLE, compressed or not, of a mask that may be empty or full."""
    kind = random.choice(["polygons", "compressed", "text", "uncompressed", "empty runs"])
    if kind == "polygons":
        return [(random.rand(random.randint(3, 8), 2) * (width, height)).ravel().tolist() for _ in range(random.randint(1, 3))]
    density = random.choice([0, random.rand(), 1])
    bitmap = np.zeros((height, width), dtype=np.uint8, order="F")
    (y0, y1), (x0, x1) = (np.sort(random.randint(0, side + 1, 2)) for side in (height, width))
    bitmap[y0:y1, x0:x1] = random.rand(y1 - y0, x1 - x0) < density
    rle = mask_util.encode(bitmap)
    if kind == "compressed":
        return rle
    if kind == "text":
        return {**rle, "counts": rle["counts"].decode()}
    flat = bitmap.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=0))  # 255 is -1
    counts = np.diff(np.concatenate([[0], edges[edges < flat.size], [flat.size]])).tolist()
    return {"size": [height, width], "counts": counts + [0] * (kind == "empty runs")}


def transform(random: np.random.RandomState, height: int, width: int) -> tuple[object, int, int]:
    """Draw a transform of an image of the given size; also return the new size."""
    kind = random.choice(["resize", "horizontal flip", "vertical flip", "crop", "none"])
    if kind == "resize":
        new_height, new_width = random.randint(1, 70, 2).tolist()
        return ExactResizeTransform(height, width, new_height, new_width), new_height, new_width
    if kind == "crop":
        new_height, new_width = random.randint(1, height + 1), random.randint(1, width + 1)
        x, y = random.randint(0, width - new_width + 1), random.randint(0, height - new_height + 1)
        return CropTransform(x, y, new_width, new_height), new_height, new_width
    flips = {"horizontal flip": HFlipTransform(width), "vertical flip": VFlipTransform(height), "none": NoOpTransform()}
    return flips[kind], height, width


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), objects=st.integers(0, 6), steps=st.integers(0, 4))
def test_equals_masks_transformed_one_by_one(seed, objects, steps):
    random = np.random.RandomState(seed)
    size = height, width = tuple(random.randint(1, 50, 2).tolist())
    segmentations = [segmentation(random, *size) for _ in range(objects)]
    transforms = []
    for _ in range(steps):
        drawn, height, width = transform(random, height, width)
        transforms.append(drawn)
    masks = transform_masks(segmentations, TransformList(transforms), size, (height, width))
    expected = one_by_one(segmentations, transforms, size)
    assert masks.tensor.shape == (objects, height, width)
    np.testing.assert_array_equal(masks.tensor.numpy(), np.array(expected).reshape(-1, height, width))
    # Windows follow one another without gaps, and no pixel is stored twice.
    x0, y0, x1, y1, start = masks.windows.numpy().T
    areas = (x1 - x0) * (y1 - y0)
    np.testing.assert_array_equal(start, np.cumsum(areas) - areas)
    assert masks.pixels.shape == (areas.sum(),)


@pytest.mark.parametrize("flips", [[], [HFlipTransform(40)], [VFlipTransform(30)]], ids=["as it is", "mirrored", "upside down"])
def test_windows_are_those_of_the_objects(flips):
    corners = [[3, 4, 13, 4, 13, 9, 3, 9]]  # 10 x 5 pixels
    masks = transform_masks(
        [corners, corners], TransformList([*flips, ExactResizeTransform(30, 40, 60, 80)]), (30, 40), (60, 80)
    )
    assert len(masks.pixels) == 2 * 20 * 10
    assert masks.pixels.all()
