"""Comparing a checkpoint's tensors with a model's, by name and shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from flash_internimage.families import detector_family

from .names import Template


@dataclass(frozen=True)
class Match:
    """How the tensors of a file fit a model; each tuple holds names, in the model's or the file's order.

    Attributes:
        matched: in both, with the same shape.
        reinitialized: layers that depend on the number of classes, which differs; the model keeps its initial weights there.
        missing: only in the model.
        unexpected: only in the file.
        wrong_shape: in both, with different shapes: ``name: (2, 3) in the file, (2, 4) in the model``.
    """

    matched: tuple[str, ...]
    reinitialized: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]

    def summary(self) -> str:
        """One line of counts, with all re-initialized layers and examples of what does not fit."""
        parts = [f"{len(self.matched)} matched"]
        if self.reinitialized:
            listed = ", ".join(self.reinitialized)
            parts.append(f"{len(self.reinitialized)} re-initialized for another number of classes ({listed})")
        for label, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.wrong_shape),
        ):
            if names:
                parts.append(f"{len(names)} {label} ({examples(names)})")
        return ", ".join(parts)


def match(model: Mapping[str, torch.Tensor], file: Mapping[str, torch.Tensor]) -> Match:
    """Compare two state dicts by name and shape; the model's family says which layers depend on the number of classes."""
    family = detector_family(model.keys())
    class_layers = () if family is None else tuple(Template(text) for text in family.class_layers)
    unequal = [name for name in model if name in file and model[name].shape != file[name].shape]
    resized = [
        name
        for name in unequal
        if model[name].shape[1:] == file[name].shape[1:] and any(layer.match(name) is not None for layer in class_layers)
    ]
    return Match(
        matched=tuple(name for name in model if name in file and name not in unequal),
        reinitialized=tuple(resized),
        missing=tuple(name for name in model if name not in file),
        unexpected=tuple(name for name in file if name not in model),
        wrong_shape=tuple(
            f"{name}: {tuple(file[name].shape)} in the file, {tuple(model[name].shape)} in the model"
            for name in unequal
            if name not in resized
        ),
    )


def examples(names: Iterable[str], limit: int = 3) -> str:
    """The first ``limit`` names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
