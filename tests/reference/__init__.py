"""Access to the stored results of MMDetection and OpenGVLab/DCNv4, which README.md describes."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .deterministic import draw_checkpoint


class Reference:
    """Reads the files of a reference folder.

    Args:
        folder: contains ``golden``, ``manifests``, ``param_groups`` and ``recipes.json``.
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
        """Names, shapes and dtypes of the tensors of a recipe, and parameter counts; some recipes share a file."""
        return self._json("manifests/" + self._json("manifests/index.json")[recipe])

    def param_groups(self, recipe: str) -> dict[str, Any]:
        """Learning rate multiplier and weight decay of each parameter of a recipe."""
        return self._json(f"param_groups/{recipe}.json")

    def checkpoint(self, recipe: str) -> dict[str, torch.Tensor]:
        """State dict with the published tensor names and random float32 weights generated from these names."""
        tensors = draw_checkpoint(self.manifest(recipe)["tensors"])
        return {name: torch.from_numpy(np.asarray(value)) for name, value in tensors.items()}

    def _json(self, path: str) -> Any:
        return json.loads((self.folder / path).read_text(encoding="utf-8"))
