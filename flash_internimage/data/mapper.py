"""From a dataset_dict (a dict in detectron2's dataset format) to what a model is fed, as the published models were.

Differences from detectron2's ``DatasetMapper``: masks are bitmaps from the start, so that they are resized and cropped
like the image; boxes are cut by a crop but not shrunk to the mask that is left; an object counts as gone when its box,
not its mask, is empty.
"""

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data.transforms import AugInput, Augmentation, AugmentationList, Transform, TransformList
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances

from flash_internimage.errors import UserError

from .boxes import boxes_of
from .images import UnreadableImage, read_rgb


def read_image(dataset_dict: dict) -> np.ndarray:
    """Reads the image of a dataset_dict.

    Args:
        dataset_dict: with ``file_name`` and, optionally, ``height``, ``width``, ``image_id`` and ``annotation_file``.

    Returns:
        (H, W, 3) of ``uint8`` in RGB, turned upright if the file has an EXIF orientation.

    Raises:
        UserError: there is no such file, it is damaged, or its size is not the one in the annotations.
    """
    file_name = dataset_dict["file_name"]
    wanted_by = f"image {dataset_dict.get('image_id')} of {dataset_dict.get('annotation_file', 'its dataset')}"
    try:
        image = read_rgb(file_name)
    except FileNotFoundError:
        raise UserError(f"{file_name}, wanted by {wanted_by}, does not exist") from None
    except UnreadableImage as error:
        raise UserError(
            f"{file_name}, wanted by {wanted_by}, is not a readable image ({error.reason}); replace the file"
        ) from error
    height, width = image.shape[:2]
    expected = (dataset_dict.get("height", height), dataset_dict.get("width", width))
    if (height, width) != expected:
        turned = " (turned by a quarter: it was annotated without regard to its EXIF orientation)"
        raise UserError(
            f"{file_name}, wanted by {wanted_by}, should be {expected[1]} x {expected[0]} pixels as annotated, "
            f"but is {width} x {height}{turned if (width, height) == expected else ''}; "
            "correct the annotation or replace the file"
        )
    return image


def segmentation_to_mask(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """Rasterises COCO polygons, or decodes an RLE, into a (height, width) mask of ``uint8``, 0 or 1."""
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, height, width)
    return mask_util.decode(segmentation)


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) array to (3, H, W) tensor."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def transform_instances(
    annotations: list[dict],
    transforms: TransformList,
    size: tuple[int, int],
    new_size: tuple[int, int],
    with_masks: bool,
) -> Instances:
    """Applies to objects what was applied to their image.

    Args:
        annotations: objects of the image, without crowd regions.
        transforms: what was applied to the image.
        size: ``(height, width)`` of the image before, in pixels.
        new_size: ``(height, width)`` of the image after, in pixels.
        with_masks: whether to give masks.

    Returns:
        ``Instances`` of ``new_size`` with ``gt_boxes`` (XYXY absolute pixels, within the image), ``gt_classes`` and, with
        masks, ``gt_masks`` (``BitMasks``) of those objects whose box is not empty.
    """
    height, width = new_size
    boxes = transforms.apply_box(boxes_of(annotations, BoxMode.XYXY_ABS)).clip(0, [width, height, width, height])
    kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    instances = Instances(new_size)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes[kept]).float())
    instances.gt_classes = torch.tensor([annotations[i]["category_id"] for i in kept], dtype=torch.int64)
    if with_masks:
        masks = torch.zeros((len(kept), *new_size), dtype=torch.bool)
        for mask, i in zip(masks, kept, strict=True):
            bitmap = segmentation_to_mask(annotations[i]["segmentation"], *size)
            mask.copy_(torch.from_numpy(np.ascontiguousarray(transforms.apply_segmentation(bitmap))))
        instances.gt_masks = BitMasks(masks)
    return instances


class TrainingMapper:
    """Reads, augments and packs one image and its objects.

    Args:
        augmentations: applied one after the other; they draw from numpy's global generator.
        with_masks: whether the model learns masks.
        allow_empty: whether an image is kept whose objects are all outside the crop. If not, the mapper returns ``None``
            for it, and the training stream takes another image.
    """

    def __init__(
        self, augmentations: Sequence[Augmentation | Transform], with_masks: bool = True, allow_empty: bool = True
    ) -> None:
        self.augmentations = AugmentationList(augmentations)
        self.with_masks = with_masks
        self.allow_empty = allow_empty

    def __call__(self, dataset_dict: dict) -> dict | None:
        """Maps a dataset_dict.

        Args:
            dataset_dict: a training dataset_dict; it is not changed.

        Returns:
            The dataset dict without annotations, with ``image`` ((3, H, W) ``uint8``, RGB) and ``instances``; or ``None``.
        """
        dataset_dict = dict(dataset_dict)
        annotations = [a for a in dataset_dict.pop("annotations") if not a.get("iscrowd", 0)]
        aug_input = AugInput(read_image(dataset_dict))
        size = aug_input.image.shape[:2]
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        dataset_dict["image"] = _to_tensor(image)
        dataset_dict["instances"] = transform_instances(annotations, transforms, size, image.shape[:2], self.with_masks)
        if annotations and not len(dataset_dict["instances"]) and not self.allow_empty:
            return None
        return dataset_dict


class TestMapper:
    """Reads and resizes one image.

    Args:
        augmentations: applied one after the other; they should draw nothing.
    """

    __test__ = False  # for pytest: not a test, in spite of its name

    def __init__(self, augmentations: Sequence[Augmentation | Transform]) -> None:
        self.augmentations = AugmentationList(augmentations)

    def __call__(self, dataset_dict: dict) -> dict:
        """Return the dataset dict without annotations, with ``image``, (3, H, W) ``uint8`` RGB; its size stays the file's."""
        dataset_dict = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        dataset_dict["image"] = self.resized(read_image(dataset_dict))
        return dataset_dict

    def resized(self, image: np.ndarray) -> torch.Tensor:
        """An image, (H, W, 3) of ``uint8`` in RGB, as the model is fed it: (3, H', W') of ``uint8``."""
        aug_input = AugInput(image)
        self.augmentations(aug_input)
        return _to_tensor(aug_input.image)
