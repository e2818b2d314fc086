"""Access to the stored numbers of the original implementation; README.md says what they are."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .deterministic import draw_checkpoint


class Reference:
    """The files of a reference folder by name.

    Args:
        folder: holds ``golden``, ``manifests``, ``param_groups`` and ``recipes.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def recipes(self) -> dict[str, Any]:
        """Hyper-parameters and published results of the twelve recipes."""
        return self._json("recipes.json")

    def golden(self, name: str) -> dict[str, np.ndarray]:
        """All arrays of ``golden/<name>.npz``."""
        with np.load(self.folder / "golden" / f"{name}.npz") as arrays:
            return dict(arrays)

    def float32_noise(self, name: str) -> dict[str, Any]:
        """Largest difference between float32 and float64 of each array of ``golden/<name>.npz``."""
        with np.load(self.folder / "golden" / f"{name}.npz") as arrays:
            return json.loads(str(arrays["float32_noise"]))

    def manifest(self, recipe: str) -> dict[str, Any]:
        """Names, shapes and dtypes of a recipe's tensors, and parameter counts; some recipes share a file."""
        return self._json("manifests/" + self._json("manifests/index.json")[recipe])

    def param_groups(self, recipe: str) -> dict[str, Any]:
        """Learning-rate multiplier and weight decay of each of a recipe's parameters."""
        return self._json(f"param_groups/{recipe}.json")

    def checkpoint(self, recipe: str) -> dict[str, torch.Tensor]:
        """A state dict under the published names, drawn from the names (float32)."""
        tensors = draw_checkpoint(self.manifest(recipe)["tensors"])
        return {name: torch.from_numpy(np.asarray(value)) for name, value in tensors.items()}

    def _json(self, path: str) -> Any:
        return json.loads((self.folder / path).read_text(encoding="utf-8"))
