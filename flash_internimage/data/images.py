"""Decoding of images (files, bytes, PIL images) to RGB arrays with the EXIF orientation applied."""

import contextlib
import io
import os
from collections.abc import Iterator

import numpy as np
from detectron2.data import detection_utils
from PIL import Image, ImageOps

from flash_internimage.errors import UserError


class UnreadableImage(UserError):
    """Raised for a file that is not an image or is corrupt.

    Attributes:
        reason: PIL's error message.
    """

    def __init__(self, name: str, cause: Exception) -> None:
        reason = str(cause) or type(cause).__name__
        # PIL's text would repeat the file name, or show the address of a file object.
        self.reason = "PIL does not recognize the image format" if "cannot identify image file" in reason else reason
        super().__init__(f"{name}: not a readable image ({self.reason})")


def read_rgb(file_name: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file.

    Args:
        file_name: a local path, or any path that detectron2's path manager resolves.

    Returns:
        (H, W, 3) ``uint8`` array in RGB, with the EXIF orientation applied.

    Raises:
        OSError: the file does not exist or cannot be opened.
        UnreadableImage: the file is not an image or is corrupt.
    """
    file_name = os.fspath(file_name)
    with _decoding(file_name):
        return detection_utils.read_image(file_name, format="RGB")


def decode_rgb(contents: bytes, name: str) -> np.ndarray:
    """Decode the contents of an image file to the same array as ``read_rgb``.

    Args:
        contents: bytes of a file in any format that PIL supports.
        name: name of the image, for messages.

    Raises:
        UnreadableImage: the bytes are not an image or are corrupt.
    """
    with _decoding(name):
        return to_rgb(Image.open(io.BytesIO(contents)))


def to_rgb(image: Image.Image) -> np.ndarray:
    """Convert a PIL image to an (H, W, 3) ``uint8`` array in RGB, with the EXIF orientation applied.

    Raises:
        UnreadableImage: the image is corrupt.
    """
    with _decoding(getattr(image, "filename", "") or "image"):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Convert the exceptions of PIL's decoders, such as SyntaxError (PNG) or struct.error, to ``UnreadableImage``."""
    try:
        yield
    except (MemoryError, UnreadableImage):
        raise
    except OSError as error:
        if error.filename is not None:  # an error of the file system; PIL's own errors name no file
            raise
        raise UnreadableImage(name, error) from error
    except Exception as error:
        raise UnreadableImage(name, error) from error
