"""Image resizing with OpenCV, with which the published models were trained and tested.

On ``uint8`` OpenCV's bilinear filter uses 11-bit fixed-point arithmetic and, unlike PIL's, no antialiasing. A model gets the
pixels that MMDetection gives it.
"""

import cv2
import numpy as np

from flash_internimage.errors import UserError

# A forked loader worker has OpenCV's threads in its memory, but they do not run: it waits for them forever if the process that
# it was forked from has used them. Parallel loading comes from the workers.
cv2.setNumThreads(0)


def fit_size(height: int, width: int, short_side: float, long_side: float) -> tuple[int, int]:
    """Return the size of an image scaled, up or down, to fit ``short_side`` by ``long_side``, keeping its aspect ratio.

    Sides are rounded to the nearest pixel, so that the scale factors of the two axes may differ slightly.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        short_side: maximum length of the shorter side, in pixels.
        long_side: maximum length of the longer side, in pixels.

    Returns:
        ``(height, width)`` of the result in pixels.
    """
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize bilinearly: pixel centers are at half-integers, and there is no antialiasing.

    Args:
        image: (H, W, C) ``uint8`` array.
        height: new height in pixels.
        width: new width in pixels.

    Returns:
        (height, width, C) ``uint8`` array.

    Raises:
        UserError: the image is not ``uint8``, the only dtype with OpenCV's fixed-point arithmetic.
    """
    if image.dtype != np.uint8:
        raise UserError(f"resize_bilinear: image must be of dtype uint8, got {image.dtype}; convert it first")
    if image.shape[:2] == (height, width):
        return image
    resized = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(height, width, image.shape[2])  # OpenCV drops an axis of one channel


def resize_nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize to the nearest neighbor, as ``cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)``.

    New pixel ``i`` is old pixel ``floor(i * ratio)``.

    Args:
        mask: (H, W) or (H, W, C) array of any dtype.
        height: new height in pixels.
        width: new width in pixels.

    Returns:
        (height, width) or (height, width, C) array of the same dtype.
    """
    old_height, old_width = mask.shape[:2]
    row = np.floor(np.arange(height) * (1.0 / (height / old_height))).astype(np.int64)
    column = np.floor(np.arange(width) * (1.0 / (width / old_width))).astype(np.int64)
    return mask[row.clip(max=old_height - 1)][:, column.clip(max=old_width - 1)]
