"""From the arrays of an exported file to boxes and masks of the original image. Needs NumPy alone, so that it can be copied."""

import numpy as np


def rescale_boxes(boxes: np.ndarray, old_size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """Scale boxes from the resized image to the original one, and clip them to it.

    Args:
        boxes: (K, 4) XYXY boxes in pixels of the resized image.
        old_size: (height, width) of the resized image, without padding.
        new_size: (height, width) of the original image.
    """
    scale = np.array([new_size[1] / old_size[1], new_size[0] / old_size[0]] * 2, np.float32)
    limits = np.array([new_size[1], new_size[0]] * 2, np.float32)
    return np.clip(boxes.astype(np.float32) * scale, 0, limits)


def paste_masks(probabilities: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float = 0.5) -> np.ndarray:
    """Resize mask probabilities to their boxes and threshold them.

    Args:
        probabilities: (K, S, S) within each box.
        boxes: (K, 4) XYXY boxes in pixels of the image; see :func:`rescale_boxes`.
        size: (height, width) of the image.
        threshold: lowest probability of a mask's pixel.

    Returns:
        (K, height, width) boolean masks.
    """
    masks = np.zeros((len(boxes), *size), bool)
    side = probabilities.shape[-1]
    for mask, padded, box in zip(masks, np.pad(probabilities, [(0, 0), (1, 1), (1, 1)]), boxes, strict=True):
        corners, weights, windows = [], [], []
        for low, high, length in ((box[1], box[3], size[0]), (box[0], box[2], size[1])):
            start, end = max(int(low) - 1, 0), min(int(np.ceil(high)) + 1, length)
            # Pixel centers in cells of the padded probabilities, in which cell 1 is the first of the box.
            cells = (np.arange(start, end) + 0.5 - low) / max(high - low, 1e-6) * side + 0.5
            cells = np.clip(cells, 0, side + 1)
            first = np.minimum(cells.astype(int), side)
            corners.append(first)
            weights.append(cells - first)
            windows.append(slice(start, end))
        (rows, columns), (lower, right) = corners, weights
        blend = padded[rows] * (1 - lower)[:, None] + padded[rows + 1] * lower[:, None]
        blend = blend[:, columns] * (1 - right) + blend[:, columns + 1] * right
        mask[windows[0], windows[1]] = blend >= threshold
    return masks
