"""Metadata of an exported file, which make the file usable without its config and checkpoint."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from flash_internimage.errors import UserError

KEY = "flash_internimage"
"""Name of the metadata in ONNX's ``metadata_props`` and in AOTInductor's; in a ``torch.export`` file it is a file."""

INPUTS = ("images", "sizes")
OUTPUTS = ("boxes", "scores", "classes", "counts", "masks")
"""Names of the tensors of every exported file; a detector without masks has no ``masks``."""

_LAYOUT = 2
"""Raised with every change of the fields, so that older files are refused by name."""


@dataclass(frozen=True)
class Metadata:
    """Description of an exported detector, stored in its file as JSON.

    Attributes:
        format: "onnx", "pt2" (``torch.export``) or "aot" (AOTInductor).
        target: the runtime for which the forms of the operators were chosen; "torch" unless the format is "onnx".
        family: title of the detector family.
        class_names: name of each class.
        channel_order: "RGB" or "BGR", of the images that the file takes.
        pixel_mean, pixel_std: the normalization, which is part of the file; images are pixels from 0 to 255.
        short_side, long_side: images are resized, keeping their aspect ratio, to fit these, in pixels.
        size_divisibility: the height and width of a batch are multiples of this, in pixels.
        smallest_side: the height and width of a batch are at least this, in pixels.
        height, width: the only size of a batch, in pixels; None if it is dynamic.
        batch: number of images.
        precision: "fp32", "fp16" or "bf16", of the linear layers and convolutions; inputs and outputs do not depend on it.
        has_masks: whether the file predicts masks.
        config: the section ``model`` of the config, as YAML.
        weights: file name of the checkpoint.
        weights_sha256: hash of that file.
        versions: of this package and of the packages that wrote the file.
    """

    format: str
    target: str
    family: str
    class_names: list[str]
    channel_order: str
    pixel_mean: list[float]
    pixel_std: list[float]
    short_side: int
    long_side: int
    size_divisibility: int
    smallest_side: int
    height: int | None
    width: int | None
    batch: int
    precision: str
    has_masks: bool
    config: str = ""
    weights: str = ""
    weights_sha256: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the file's outputs, in order."""
        return OUTPUTS if self.has_masks else OUTPUTS[:-1]

    def padded(self, side: int) -> int:
        """The height or width of a batch with dynamic sizes, for images of this height or width, in pixels."""
        return -(-max(side, self.smallest_side) // self.size_divisibility) * self.size_divisibility

    def to_json(self) -> str:
        return json.dumps({"layout": _LAYOUT, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes | None, path: str) -> Metadata:
        """Read the description of the file ``path``.

        Raises:
            UserError: the file was not written by ``flash-internimage export``, or by a later version of it.
        """
        if not text:
            raise UserError(
                f"{path}: expected a file that `flash-internimage export` wrote, got one without its metadata; export it again"
            )
        fields: dict[str, Any] = json.loads(text)
        layout = fields.pop("layout", None)
        names = {field.name for field in dataclasses.fields(cls)}
        if layout != _LAYOUT or set(fields) != names:
            raise UserError(
                f"{path}: its metadata has layout {layout}, this version of flash-internimage reads {_LAYOUT}; export it again"
            )
        return cls(**fields)
