"""Image resizing that is bit-exact with OpenCV, with which the published models were trained and tested.

On ``uint8`` OpenCV's bilinear filter uses 11-bit fixed-point arithmetic and, unlike PIL's, no antialiasing. Both are
reproduced here in integer arithmetic, so that a model gets exactly the pixels that MMDetection gives it, without OpenCV.
"""

import numpy as np

from flash_internimage.errors import UserError

_COEFFICIENT_BITS = 11


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


def _sampling_positions(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of each new pixel's left neighbor (not clipped), and the float32 distance to it."""
    # The ratio is inverted twice, as in OpenCV: the result may differ from old / new in the last bit.
    position = ((np.arange(new) + 0.5) * (1.0 / (new / old)) - 0.5).astype(np.float32)
    left = np.floor(position)
    return left.astype(np.int64), position - left


def _coefficients(fraction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one = np.float32(1 << _COEFFICIENT_BITS)
    left = np.rint((np.float32(1) - fraction) * one).astype(np.int32)
    right = np.rint(fraction * one).astype(np.int32)
    return left, right


def resize_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize bilinearly, bit-exact with ``cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)``.

    Pixel centers are at half-integers, and there is no antialiasing.

    Args:
        image: (H, W, C) ``uint8`` array.
        height: new height in pixels.
        width: new width in pixels.

    Returns:
        (height, width, C) ``uint8`` array.

    Raises:
        UserError: the image is not ``uint8``; the fixed-point arithmetic is defined for no other dtype.
    """
    if image.dtype != np.uint8:
        raise UserError(f"resize_bilinear: image must be of dtype uint8, got {image.dtype}; convert it first")
    old_height, old_width = image.shape[:2]
    if (old_height, old_width) == (height, width):
        return image

    column, fraction = _sampling_positions(old_width, width)
    # At the left and right border OpenCV uses the border pixel alone; at the top and bottom it uses the border row
    # with both weights, which rounds differently.
    fraction = np.where((column < 0) | (column >= old_width - 1), np.float32(0), fraction)
    left, right = _coefficients(fraction)
    pixels = image.astype(np.int32)
    rows = pixels[:, column.clip(0, old_width - 1)] * left[:, None]
    rows += pixels[:, (column + 1).clip(0, old_width - 1)] * right[:, None]
    rows >>= 4  # keeps the products below within 32 bits, and matches OpenCV's 16-bit multiplications

    row, fraction = _sampling_positions(old_height, height)
    upper, lower = _coefficients(fraction)
    result = (rows[row.clip(0, old_height - 1)] * upper[:, None, None]) >> 16
    result += (rows[(row + 1).clip(0, old_height - 1)] * lower[:, None, None]) >> 16
    result += 2
    result >>= 2
    return result.astype(np.uint8)


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
