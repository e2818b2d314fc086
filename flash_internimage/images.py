"""Decoding of images (files, bytes, PIL images) to RGB arrays with the EXIF orientation applied.

Every part of the package reads images here, so that they all refuse the same files.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from flash_internimage.errors import UserError
from flash_internimage.path_manager import PathManager

MAX_PIXELS_VARIABLE = "FLASH_INTERNIMAGE_MAX_IMAGE_PIXELS"
"""Environment variable with the largest number of pixels of an image; by default Pillow's limit."""

_UNSUPPORTED_MODES = {"I": "32-bit integers", "F": "32-bit floats"}  # beside I;16, I;16L, I;16B and I;16N


IMAGES_ANYWHERE_VARIABLE = "FLASH_INTERNIMAGE_IMAGES_ANYWHERE"
"""Environment variable: when set to anything but 0, annotation files may name images outside of their image folder."""


def are_allowed_anywhere() -> bool:
    """Return whether annotation files may name images outside of their image folder."""
    return os.environ.get(IMAGES_ANYWHERE_VARIABLE, "0") != "0"


def leads_outside(file_name: str) -> bool:
    """Return whether a file name of an annotation file leads out of the image folder, and this is not allowed."""
    if are_allowed_anywhere():
        return False
    return os.path.isabs(file_name) or os.path.normpath(file_name).split(os.sep)[0] == os.pardir or "\0" in file_name


def require_inside(file_name: str, source: str) -> None:
    """Raise an exception if a file name of an annotation file leads out of the image folder.

    Raises:
        UserError: the name leads out of the folder, and :data:`IMAGES_ANYWHERE_VARIABLE` is not set.
    """
    if leads_outside(file_name):
        raise UserError(
            f"{source}: the image {file_name[:200]!r} is outside of the image folder; if you trust the file, set the "
            f"environment variable {IMAGES_ANYWHERE_VARIABLE}=1"
        )


class UnreadableImage(UserError):
    """Raised for an image that cannot be used.

    Attributes:
        problem: what is wrong with the image and what to do; the image is the subject ("is not a readable image (...)").
    """

    def __init__(self, name: str, problem: str) -> None:
        self.problem = problem
        super().__init__(f"{name}: {problem.removeprefix('is ')}")


def read_rgb(file_name: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file.

    Args:
        file_name: a local path, or any path that detectron2's path manager resolves.

    Returns:
        (H, W, 3) ``uint8`` array in RGB, with the EXIF orientation applied.

    Raises:
        OSError: the file does not exist or cannot be opened.
        UnreadableImage: the file is not an image, is corrupt, or is of a kind that is not supported (see ``to_rgb``).
    """
    file_name = os.fspath(file_name)
    with PathManager.open(file_name, "rb") as file, _decoding(file_name):
        return to_rgb(_open(file, file_name), file_name)


def decode_rgb(contents: bytes, name: str) -> np.ndarray:
    """Decode the contents of an image file to the same array as ``read_rgb``.

    Args:
        contents: bytes of a file in any format that PIL supports.
        name: name of the image, for messages.

    Raises:
        UnreadableImage: the bytes are not an image or are corrupt.
    """
    with _decoding(name):
        return to_rgb(_open(io.BytesIO(contents), name), name)


def to_rgb(image: Image.Image, name: str = "") -> np.ndarray:
    """Convert a PIL image to an (H, W, 3) ``uint8`` array in RGB, with the EXIF orientation applied.

    Images with one channel of 16 bits, of 32-bit integers or of floats are refused: what range of their values is black to
    white is not known, and PIL would clip them to 0..255. (Color images of 16 bits per channel keep their upper 8 bits.)

    Args:
        image: an image that PIL has opened.
        name: name of the image, for messages; by default that of its file.

    Raises:
        UnreadableImage: the image is corrupt or has such a channel.
    """
    name = name or getattr(image, "filename", "") or "image"
    kind = "16 bits" if image.mode.startswith("I;16") else _UNSUPPORTED_MODES.get(image.mode)
    if kind is not None:
        raise UnreadableImage(
            name,
            f"has one channel of {kind} (PIL mode {image.mode!r}), but should have 8 bits per channel; scale its values to "
            "0..255 and save it again, all images of a dataset by the same factor",
        )
    with _decoding(name):
        return np.array(_upright(image).convert("RGB"))


def has_exif_rotation(file_name: str | os.PathLike[str]) -> bool:
    """Return whether the EXIF orientation of a readable image file swaps its width and height."""
    with PathManager.open(os.fspath(file_name), "rb") as file:
        try:
            return Image.open(file).getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        except Exception:  # corrupt EXIF data
            return False


def read_size(file_name: str | os.PathLike[str]) -> tuple[int, int]:
    """Read the size of an image file from its header, without decoding its pixels.

    Returns:
        ``(height, width)`` in pixels, with the EXIF orientation applied.

    Raises:
        OSError: the file does not exist or cannot be opened.
        UnreadableImage: the file is not an image, or its header is corrupt.
    """
    file_name = os.fspath(file_name)
    with PathManager.open(file_name, "rb") as file, _decoding(file_name):
        image = _open(file, file_name)
        width, height = image.size
        # For a PNG without EXIF data in its header, getexif would decode the whole image.
        if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
            return height, width
    return (width, height) if has_exif_rotation(file_name) else (height, width)


def _upright(image: Image.Image) -> Image.Image:
    try:
        image.getexif()
    except Exception:  # corrupt EXIF data, which has no orientation
        return image
    return ImageOps.exif_transpose(image)


def _open(file: IO[bytes], name: str) -> Image.Image:
    """Open an image, unless it has more pixels than the limit.

    Raises:
        UnreadableImage: the image has more pixels than the limit.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"{MAX_PIXELS_VARIABLE} should be a number of pixels (a whole number of 1 or more), got {text!r}")
        Image.MAX_IMAGE_PIXELS = int(text)  # Pillow warns from here on and refuses twice as many
    try:
        image = Image.open(file)
    except Image.DecompressionBombError as error:
        pixels, default = (int(number) for number in re.findall(r"\d+", str(error))[:2])
        raise _too_large(name, pixels, int(text) if text else default) from None
    if text and image.width * image.height > int(text):
        raise _too_large(name, image.width * image.height, int(text))
    return image


def _too_large(name: str, pixels: int, limit: int) -> UnreadableImage:
    return UnreadableImage(
        name,
        f"has {pixels:,} pixels, more than the limit of {limit:,}, which guards against files that fill the memory; set the "
        f"environment variable {MAX_PIXELS_VARIABLE} to the number of pixels to allow, or split or shrink the image",
    )


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Convert the exceptions of PIL's decoders, such as SyntaxError (PNG) or struct.error, to ``UnreadableImage``."""
    try:
        yield
    except (MemoryError, UserError):
        raise
    except OSError as error:
        if error.filename is not None:  # an error of the file system; PIL's own errors name no file
            raise
        raise _unreadable(name, error) from error
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, cause: Exception) -> UnreadableImage:
    reason = str(cause) or type(cause).__name__
    # PIL's text would repeat the file name, or show the address of a file object.
    reason = "PIL does not recognize the image format" if "cannot identify image file" in reason else reason
    return UnreadableImage(name, f"is not a readable image ({reason}); replace the file")
