"""Comparing a checkpoint's tensors with a model's, by name and shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from flash_internimage.families import DetectorFamily
from flash_internimage.family_lookup import detector_family

from .names import Template


@dataclass(frozen=True)
class Match:
    """How the tensors of a file fit a model; tuples hold names of tensors, in the model's or the file's order.

    Attributes:
        matched: in both, with the same shape.
        reinitialized: layers that depend on the number of classes, which differs; the model keeps its initial weights there.
        left_out: path of an optional module that the model was configured without -> its tensors, which are only in the file.
        missing: only in the model.
        unexpected: only in the file, of no such module.
        wrong_shape: in both, with different shapes: ``name: (2, 3) in the file, (2, 4) in the model``.
    """

    matched: tuple[str, ...]
    reinitialized: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]

    def summary(self) -> str:
        """One line of counts, with all re-initialized layers, all modules left out, and examples of what does not fit."""
        parts = [f"{len(self.matched)} matched"]
        if self.reinitialized:
            listed = ", ".join(self.reinitialized)
            parts.append(f"{len(self.reinitialized)} re-initialized for another number of classes ({listed})")
        for module, names in self.left_out.items():
            parts.append(f"{len(names)} left in the file (the model has no {module})")
        for label, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.wrong_shape),
        ):
            if names:
                parts.append(f"{len(names)} {label} ({examples(names)})")
        return ", ".join(parts)


def match(model: Mapping[str, torch.Tensor], file: Mapping[str, torch.Tensor]) -> Match:
    """Compare two state dicts by name and shape.

    The model's family says which layers depend on the number of classes, and which modules a model may do without. The latter
    holds for files of the same family only: a module of another detector is never left out.
    """
    family = detector_family(model.keys())
    left_out = {} if family is None or family is not detector_family(file.keys()) else _left_out(family, model, file)
    ignored = {name for names in left_out.values() for name in names}
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
        left_out=left_out,
        missing=tuple(name for name in model if name not in file),
        unexpected=tuple(name for name in file if name not in model and name not in ignored),
        wrong_shape=tuple(
            f"{name}: {tuple(file[name].shape)} in the file, {tuple(model[name].shape)} in the model"
            for name in unequal
            if name not in resized
        ),
    )


def _left_out(family: DetectorFamily, model: Iterable[str], file: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The optional modules of which the file has tensors and the model has none, with the names of these tensors."""
    left_out = {}
    for module in family.optional:
        in_model, in_file = (tuple(name for name in names if name.startswith(f"{module}.")) for names in (model, file))
        if in_file and not in_model:
            left_out[module] = in_file
    return left_out


def examples(names: Iterable[str], limit: int = 3) -> str:
    """The first ``limit`` names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
