"""Comparing a checkpoint's tensors with a model's, by name and shape."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

# The layers whose length is the number of classes, by the end of their names. A model of another number of classes
# starts them afresh.
_CLASS_LAYERS = re.compile(
    r"(^|\.)(cls_score|bbox_pred|mask_head(\.\d+)?\.predictor|class_heads\.\d+|label_embedding)\.(weight|bias)$"
)


@dataclass(frozen=True)
class Match:
    """How the tensors of a file fit a model; each tuple holds names, in the model's or the file's order.

    Attributes:
        matched: in both, of one shape.
        reinitialized: layers sized by the number of classes, which differs; the model keeps its fresh weights there.
        missing: in the model alone.
        unexpected: in the file alone.
        wrong_shape: in both, of unequal shapes, with both shapes: ``name: (2, 3) in the file, (2, 4) in the model``.
    """

    matched: tuple[str, ...]
    reinitialized: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]

    def summary(self) -> str:
        """One line of counts, with all layers that start afresh and examples of what does not fit."""
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
    """Sort the names of two state dicts into what fits and what does not."""
    unequal = [name for name in model if name in file and model[name].shape != file[name].shape]
    resized = [name for name in unequal if _another_class_count(name, model[name], file[name])]
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
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _another_class_count(name: str, model: torch.Tensor, file: torch.Tensor) -> bool:
    return bool(_CLASS_LAYERS.search(name)) and model.shape[1:] == file.shape[1:]
