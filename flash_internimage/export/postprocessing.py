"""Postprocessing of an exported detector: boxes and masks in the original image. Needs only NumPy, so it can be copied."""

from __future__ import annotations

import numpy as np


def rescale_boxes(boxes: np.ndarray, size: tuple[int, int], original_size: tuple[int, int]) -> np.ndarray:
    """Scale boxes from the resized image to the original image, and clip them to it.

    Args:
        boxes: (K, 4) XYXY in pixels of the resized image.
        size: (height, width) of the resized image without padding, as it was passed to the detector.
        original_size: (height, width) of the original image.

    Returns:
        (K, 4) XYXY in pixels of the original image, float32.
    """
    scale = np.array([original_size[1] / size[1], original_size[0] / size[0]] * 2, np.float32)
    limits = np.array([original_size[1], original_size[0]] * 2, np.float32)
    return np.clip(boxes.astype(np.float32) * scale, 0, limits)


def paste_masks(masks: np.ndarray, boxes: np.ndarray, image_size: tuple[int, int], threshold: float = 0.5) -> np.ndarray:
    """Resize the mask of each box to its box, bilinearly, and binarize it, as detectron2's ``paste_masks_in_image`` does.

    Args:
        masks: (K, S, S) mask probabilities within the boxes.
        boxes: (K, 4) XYXY in pixels of the image.
        image_size: (height, width) of the image.
        threshold: pixels with at least this probability belong to the object.

    Returns:
        (K, height, width) bool.
    """
    pasted = np.zeros((len(masks), *image_size), bool)
    for output, mask, box in zip(pasted, masks, boxes.astype(np.float32), strict=True):
        # Rows, then columns: the pixels inside the box, and the weights of the mask's pixels for each of them.
        windows, weights = [], []
        for axis, length in enumerate(image_size):
            start, end = box[1 - axis], box[3 - axis]
            first, last = max(int(np.floor(start)) - 1, 0), min(int(np.ceil(end)) + 1, length)
            centers = (np.arange(first, last, dtype=np.float32) + 0.5 - start) / (end - start) * len(mask) - 0.5
            distances = np.abs(centers[:, None] - np.arange(len(mask), dtype=np.float32))
            windows.append(slice(first, last))
            weights.append(np.maximum(1 - distances, 0))  # zero beyond the mask
        output[tuple(windows)] = weights[0] @ mask.astype(np.float32) @ weights[1].T >= threshold
    return pasted
