"""Mappers from dataset dicts (detectron2's dataset format) to model inputs, as the published models were trained.

Differences from detectron2's ``DatasetMapper``:

- masks are rasterized first, so that they are resized and cropped like the image;
- a crop clips boxes, but does not shrink them to the remaining part of the mask;
- an object is dropped when its box is empty, not when its mask is.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.data.transforms import AugInput, Augmentation, AugmentationList, Transform, TransformList
from detectron2.structures import Boxes, BoxMode, Instances

from flash_internimage.errors import UserError
from flash_internimage.images import UnreadableImage, has_exif_rotation, read_rgb

from .boxes import boxes_of
from .combinations import Combination
from .masks import transform_masks
from .samples import Sample


def read_image(dataset_dict: dict) -> np.ndarray:
    """Read the image of a dataset dict.

    Args:
        dataset_dict: with ``file_name`` and, optionally, ``height``, ``width``, ``image_id`` and ``annotation_file``.

    Returns:
        (H, W, 3) ``uint8`` array in RGB, with the EXIF orientation applied.

    Raises:
        UserError: the file cannot be opened, is not an image that is supported, or its size differs from the annotated one.
    """
    file_name = dataset_dict["file_name"]
    source = f"image {dataset_dict.get('image_id')} of {dataset_dict.get('annotation_file', 'its dataset')}"
    try:
        image = read_rgb(file_name)
    except FileNotFoundError:
        raise UserError(f"{file_name}, referenced by {source}, does not exist") from None
    except UnreadableImage as error:
        raise UserError(f"{file_name}, referenced by {source}, {error.problem}") from error
    except OSError as error:
        raise UserError(f"{file_name}, referenced by {source}, cannot be opened ({error.strerror})") from error
    height, width = image.shape[:2]
    expected = (dataset_dict.get("height", height), dataset_dict.get("width", width))
    if (height, width) != expected:
        reason = ""
        if (width, height) == expected:
            reason = " (width and height are swapped)"
            if has_exif_rotation(file_name):
                reason = " (rotated by 90 degrees: it was annotated without applying its EXIF orientation)"
        raise UserError(
            f"{file_name}, referenced by {source}, should be {expected[1]} x {expected[0]} pixels as annotated, "
            f"but is {width} x {height}{reason}; "
            "correct the annotation or replace the file"
        )
    return image


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    """Convert an (H, W, 3) array to a (3, H, W) tensor."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def transform_instances(
    annotations: list[dict],
    transforms: TransformList,
    size: tuple[int, int],
    new_size: tuple[int, int],
    with_masks: bool,
) -> Instances:
    """Apply an image's transforms to its annotations.

    Args:
        annotations: objects of the image, without crowd regions.
        transforms: transforms that were applied to the image.
        size: ``(height, width)`` of the original image, in pixels.
        new_size: ``(height, width)`` of the transformed image, in pixels.
        with_masks: whether to return masks.

    Returns:
        ``Instances`` of ``new_size`` with ``gt_boxes`` (XYXY absolute pixels, clipped to the image), ``gt_classes`` and, with
        masks, ``gt_masks`` (``WindowMasks``) of the objects whose box is not empty.
    """
    height, width = new_size
    boxes = transforms.apply_box(boxes_of(annotations, BoxMode.XYXY_ABS)).clip(0, [width, height, width, height])
    kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    instances = Instances(new_size)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes[kept]).float())
    instances.gt_classes = torch.tensor([annotations[i]["category_id"] for i in kept], dtype=torch.int64)
    if with_masks:
        segmentations = [annotations[i]["segmentation"] for i in kept]
        instances.gt_masks = transform_masks(segmentations, transforms, size, new_size)
    return instances


class TrainingMapper:
    """Maps a dataset dict to a training sample: reads the image, augments it, and packs its objects as ``Instances``.

    Args:
        augmentations: augmentations applied in order; they draw from numpy's global generator.
        with_masks: whether the model learns masks.
        allow_empty: whether to keep an image whose objects are all outside the crop. If not, the mapper returns ``None``
            for it, and the training stream draws another image.
        pipeline: augmentations of another library, applied after ``augmentations``.
        combinations: combinations with other images, applied last and in order.

    Attributes:
        dataset: dataset dicts of the images for ``combinations``; ``build_train_loader`` sets it.
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation | Transform],
        with_masks: bool = True,
        allow_empty: bool = True,
        pipeline: Callable[[Sample], Sample] | None = None,
        combinations: Sequence[Combination] = (),
    ) -> None:
        self.augmentations = AugmentationList(augmentations)
        self.with_masks = with_masks
        self.allow_empty = allow_empty
        self.pipeline = pipeline
        self.combinations = list(combinations)
        self.dataset: Sequence[dict] = ()

    def __call__(self, dataset_dict: dict) -> dict | None:
        """Map a dataset dict to a sample.

        Args:
            dataset_dict: a dataset dict for training; not modified.

        Returns:
            The dataset dict without annotations, with ``image`` ((3, H, W) ``uint8``, RGB) and ``instances``; ``None`` for an
            empty crop unless ``allow_empty``.
        """
        sample = self._sample(dataset_dict)
        for combination in self.combinations:
            sample = combination(sample, self._draw)
        if not self.with_masks and sample.instances.has("gt_masks"):
            sample.instances.remove("gt_masks")
        has_objects = any(not a.get("iscrowd", 0) for a in dataset_dict["annotations"])
        if has_objects and not len(sample.instances) and not self.allow_empty:
            return None
        mapped = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        return {**mapped, "image": _to_tensor(sample.image), "instances": sample.instances}

    def _sample(self, dataset_dict: dict) -> Sample:
        """Read an image and augment it alone."""
        annotations = [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]
        with_masks = self.with_masks
        for combination in self.combinations:
            if combination.needs_masks:
                with_masks = True
                if not all("segmentation" in a for a in annotations):
                    raise UserError(
                        f"{combination.name}: expected masks of all objects, but an object of image {dataset_dict['image_id']} "
                        f"({dataset_dict['file_name']}) has none; use mosaic or mixup, which need boxes only"
                    )
        aug_input = AugInput(read_image(dataset_dict))
        size = aug_input.image.shape[:2]
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        sample = Sample(image, transform_instances(annotations, transforms, size, image.shape[:2], with_masks))
        return sample if self.pipeline is None else self.pipeline(sample)

    def _draw(self) -> Sample:
        """Read and augment an image that is chosen at random."""
        if not len(self.dataset):
            raise UserError("TrainingMapper: combinations need its dataset to be set; build the loader with build_train_loader")
        return self._sample(self.dataset[np.random.randint(len(self.dataset))])


class TestMapper:
    """Maps a dataset dict to a test sample: reads and resizes its image.

    Args:
        augmentations: augmentations applied in order; they should be deterministic.
    """

    __test__ = False  # keeps pytest from collecting it as a test

    def __init__(self, augmentations: Sequence[Augmentation | Transform]) -> None:
        self.augmentations = AugmentationList(augmentations)

    def __call__(self, dataset_dict: dict) -> dict:
        """Return the dataset dict without annotations, with ``image`` ((3, H', W') ``uint8``, RGB).

        ``height`` and ``width`` keep the size of the file, to which models rescale their detections.
        """
        dataset_dict = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        dataset_dict["image"] = self.resized(read_image(dataset_dict))
        return dataset_dict

    def resized(self, image: np.ndarray) -> torch.Tensor:
        """Resize an (H, W, 3) ``uint8`` RGB image to the model's input, a (3, H', W') ``uint8`` tensor."""
        aug_input = AugInput(image)
        self.augmentations(aug_input)
        return _to_tensor(aug_input.image)
