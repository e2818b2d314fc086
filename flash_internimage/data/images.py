"""Images as RGB arrays, upright: from files, from bytes, and from what PIL has opened."""

import contextlib
import io
import os
from collections.abc import Iterator

import numpy as np
from detectron2.data import detection_utils
from PIL import Image, ImageOps

from flash_internimage.errors import UserError


class UnreadableImage(UserError):
    """What should be an image is none, or damaged.

    Attributes:
        reason: what PIL found, in a few words.
    """

    def __init__(self, name: str, cause: Exception) -> None:
        reason = str(cause) or type(cause).__name__
        # Here PIL repeats the name, or gives the address of a file object.
        self.reason = "it has no image format that PIL knows" if "cannot identify image file" in reason else reason
        super().__init__(f"{name}: not a readable image ({self.reason})")


def read_rgb(file_name: str | os.PathLike[str]) -> np.ndarray:
    """Reads an image file.

    Args:
        file_name: a local path, or any that detectron2's path manager knows.

    Returns:
        (H, W, 3) of ``uint8`` in RGB, turned upright if the file has an EXIF orientation.

    Raises:
        OSError: the file cannot be opened: there is none, or it may not be read.
        UnreadableImage: it is no image, or a damaged one.
    """
    file_name = os.fspath(file_name)
    with _decoding(file_name):
        return detection_utils.read_image(file_name, format="RGB")


def decode_rgb(contents: bytes, name: str) -> np.ndarray:
    """The image in the contents of a file, as ``read_rgb`` gives it.

    Args:
        contents: of a file in any format that PIL knows.
        name: what messages call it.

    Raises:
        UnreadableImage: it is no image, or a damaged one.
    """
    with _decoding(name):
        return to_rgb(Image.open(io.BytesIO(contents)))


def to_rgb(image: Image.Image) -> np.ndarray:
    """What PIL has opened as (H, W, 3) of ``uint8`` in RGB, turned upright if it has an EXIF orientation.

    Raises:
        UnreadableImage: it is damaged.
    """
    with _decoding(getattr(image, "filename", "") or "image"):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """What PIL's decoders raise becomes an ``UnreadableImage``: many kinds, such as SyntaxError for a PNG, or struct.error."""
    try:
        yield
    except (MemoryError, UnreadableImage):
        raise
    except OSError as error:
        if error.filename is not None:  # the file system's error; PIL's own name no file
            raise
        raise UnreadableImage(name, error) from error
    except Exception as error:
        raise UnreadableImage(name, error) from error
