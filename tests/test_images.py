"""Decoding of images: the same pixels from files, bytes and PIL images, and what is refused, in one sentence."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from flash_internimage.data.mapper import read_image
from flash_internimage.errors import UserError
from flash_internimage.images import (
    MAX_PIXELS_VARIABLE,
    UnreadableImage,
    decode_rgb,
    has_exif_rotation,
    read_rgb,
    read_size,
    require_inside,
    to_rgb,
)

PIXELS = np.random.RandomState(0).randint(0, 256, (12, 20, 3)).astype(np.uint8)


def save(file: Path, pixels: np.ndarray = PIXELS, orientation: int | None = None, mode: str | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, exif=exif)
    return file


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_same_pixels_as_detectron2_from_every_source(tmp_path, orientation, mode):
    file = save(tmp_path / "a.png", orientation=orientation, mode=mode)
    expected = detection_utils.read_image(str(file), format="RGB")
    np.testing.assert_array_equal(read_rgb(file), expected)
    np.testing.assert_array_equal(decode_rgb(file.read_bytes(), "bytes"), expected)
    np.testing.assert_array_equal(to_rgb(Image.open(file)), expected)
    assert has_exif_rotation(file) == (orientation in (5, 6, 7, 8))


DEEP = {
    "16 bits PNG": (np.full((4, 5), 40000, dtype=np.uint16), "png", "16 bits (PIL mode 'I;16')"),
    "16 bits TIFF": (np.full((4, 5), 40000, dtype=np.uint16), "tif", "16 bits (PIL mode 'I;16"),
    "32-bit integers": (np.full((4, 5), 70000, dtype=np.int32), "tif", "32-bit integers (PIL mode 'I')"),
    "floats": (np.full((4, 5), 0.5, dtype=np.float32), "tif", "32-bit floats (PIL mode 'F')"),
}


@pytest.mark.parametrize(("pixels", "suffix", "kind"), DEEP.values(), ids=DEEP.keys())
@pytest.mark.parametrize("source", ["file", "bytes", "PIL image", "dataset dict"])
def test_deep_single_channel_images_are_refused(tmp_path, pixels, suffix, kind, source):
    file = save(tmp_path / f"deep.{suffix}", pixels)
    read = {
        "file": lambda: read_rgb(file),
        "bytes": lambda: decode_rgb(file.read_bytes(), file.name),
        "PIL image": lambda: to_rgb(Image.open(file)),
        "dataset dict": lambda: read_image({"file_name": str(file), "height": 4, "width": 5, "image_id": 3}),
    }[source]
    with pytest.raises(UserError) as error:
        read()
    assert f"deep.{suffix}" in str(error.value)
    assert kind in str(error.value)
    assert "scale its values to 0..255" in str(error.value)


@pytest.fixture
def _pillow_limit(monkeypatch):
    """Lower Pillow's limit, restored after the test, so that an image of 12 x 20 pixels exceeds it more than twice."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 119)


@pytest.mark.usefixtures("_pillow_limit")
def test_limit_of_pixels_has_a_message_of_its_own(tmp_path):
    file = save(tmp_path / "large.png")
    with pytest.raises(UserError) as error:
        read_rgb(file)
    assert "not a readable image" not in str(error.value)
    for text in ("large.png: has 240 pixels, more than the limit of 238", MAX_PIXELS_VARIABLE):
        assert text in str(error.value)


@pytest.mark.usefixtures("_pillow_limit")
def test_limit_of_pixels_can_be_raised_everywhere(tmp_path, monkeypatch):
    file = save(tmp_path / "large.png")
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "240")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's warning of large images would be one
        np.testing.assert_array_equal(read_rgb(file), PIXELS)
        np.testing.assert_array_equal(decode_rgb(file.read_bytes(), "bytes"), PIXELS)
        assert read_image({"file_name": str(file)}).shape == (12, 20, 3)


@pytest.mark.usefixtures("_pillow_limit")
@pytest.mark.parametrize(("value", "message"), [("239", "240 pixels, more than the limit of 239"), ("1e9", "got '1e9'")])
def test_override_that_is_too_small_or_no_number(tmp_path, monkeypatch, value, message):
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, value)
    with pytest.raises(UserError, match=message):
        read_rgb(save(tmp_path / "large.png"))


def test_color_images_of_16_bits_keep_their_upper_bits(tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    deep = (PIXELS.astype(np.uint16) * 256 + 77).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 20, 12, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode_rgb(png, "deep.png"), PIXELS)


SWAPPED = {
    "with EXIF orientation": (6, "annotated without applying its EXIF orientation"),
    "without EXIF": (None, r"20 x 12 \(width and height are swapped\); correct the annotation"),
    "upright EXIF": (1, "width and height are swapped"),
}


@pytest.mark.parametrize(("orientation", "message"), SWAPPED.values(), ids=SWAPPED.keys())
def test_swapped_sides_blame_exif_only_if_there_is_an_orientation(tmp_path, orientation, message):
    file = save(tmp_path / "a.png", orientation=orientation)
    height, width = read_rgb(file).shape[:2]
    with pytest.raises(UserError, match=message):
        read_image({"file_name": str(file), "height": width, "width": height})


def test_folder_instead_of_an_image(tmp_path):
    with pytest.raises(UserError, match=r"cannot be opened \(Is a directory\)"):
        read_image({"file_name": str(tmp_path)})


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_size_without_decoding_is_that_of_the_decoded_image(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"image.{suffix}"
    Image.new("RGB", (30, 20)).save(file, exif=exif)
    assert read_size(file) == read_rgb(file).shape[:2] == ((30, 20) if orientation == 6 else (20, 30))
    Image.new("RGB", (30, 20)).save(file)
    assert read_size(str(file)) == (20, 30)


def test_size_of_what_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match="not a readable image"):
        read_size(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError):
        read_size(tmp_path / "b.jpg")


@pytest.mark.parametrize("name", ["/a.png", "../a.png", "a/../../b.png", "..", "a\0.png"])
def test_file_names_outside_of_the_image_folder_are_refused_unless_allowed(monkeypatch, name):
    with pytest.raises(UserError, match="is outside of the image folder; .*FLASH_INTERNIMAGE_IMAGES_ANYWHERE=1"):
        require_inside(name, "val.json")
    monkeypatch.setenv("FLASH_INTERNIMAGE_IMAGES_ANYWHERE", "1")
    require_inside(name, "val.json")


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "a/../b.png", "..a.png", "a/..b/c.png", "./a.png"])
def test_file_names_in_the_image_folder_are_accepted(name):
    require_inside(name, "val.json")
