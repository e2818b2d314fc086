"""DINO against all stored results of MMDetection: evaluation, training, gradients, in double and single precision.

The weights are loaded as users load them: from a file in the published format, by the project's checkpointer, into a model
built from the config of the published model.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from flash_internimage.checkpoint import Checkpointer
from flash_internimage.checkpoint.published import to_published
from flash_internimage.projects.dino import DINO
from tests.golden.comparison import compare, marks
from tests.golden.conftest import Judge
from tests.golden.dino_arrays import Arrays, Golden, Run
from tests.reference import Reference

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
# Losses and gradient norms are stored as float64, without rounding.
STORED_AS_FLOAT64 = ("/loss/", "/grad_norm/")
# Tolerances in pixels and score: ten times the noise of detections matched by position, from tests/reference/README.md. (The
# noise stored in the file was computed row by row, where a swap in the ranking appears as an error of 200 pixels.)
DETECTIONS_FLOAT32 = {"boxes": 1e-2, "scores": 1e-5, "labels": 0.0}
INPUTS = ("targets/", "train/denoising/label_uniform", "train/denoising/new_labels", "train/denoising/box_")
METADATA = {"level_channel_space_strides", "decoder/class_stride", "float32_noise", "train/grad_norm/names"}
REFERENCE = Reference(Path(__file__).parent.parent / "reference")


@cache
def stored(size: str) -> tuple[Golden, dict[str, float]]:
    """Stored arrays, and the float32 noise of each."""
    return REFERENCE.golden(f"dino_{size}"), REFERENCE.float32_noise(f"dino_{size}")


def results(size: str) -> list[str]:
    """Names of the stored arrays that a model must reproduce."""
    names = set(stored(size)[0]) - METADATA
    return sorted(name for name in names if name == "train/denoising/box_query" or not name.startswith(INPUTS))


def build(size: str, dtype: torch.dtype, repository: Path, folder: Path) -> DINO:
    recipe = f"dino_4scale_flash_internimage_{size}_1x_coco"
    config = LazyConfig.load(str(repository / "configs" / "coco" / f"{recipe}.py")).model
    config.backbone.drop_path_rate = 0.0  # as for the stored training results
    config.backbone.with_cp = False  # changes only memory and time
    model = instantiate(config)
    checkpoint, path = REFERENCE.checkpoint(recipe), folder / f"{recipe}.pth"
    torch.save({"state_dict": checkpoint, "meta": {}}, path)
    Checkpointer(model).load_complete(str(path))
    path.unlink()
    assert to_published(model.state_dict()).keys() == checkpoint.keys()
    return model.to(dtype)


def compute(size: str, dtype: torch.dtype, repository: Path, folder: Path) -> Arrays:
    golden, model = stored(size)[0], build(size, dtype, repository, folder)
    single = dtype == torch.float32
    run = Run(model, golden, "ab", ranking=golden["encoder/topk_indices"] if single else None)
    arrays = run.train(noise=True, gradients=not single)
    run.features = {name: feature.detach() for name, feature in run.features.items()}
    arrays |= run.train(noise=False, gradients=False) | run.evaluate()
    if size == "t":
        with torch.no_grad():
            odd = Run(model, golden, "cd", ranking=golden["odd/encoder/topk_indices"] if single else None)
        arrays |= odd.evaluate_odd()
    return arrays


def without_ties(name: str, value: np.ndarray, expected: np.ndarray, golden: Golden) -> tuple[np.ndarray, np.ndarray]:
    """Normalize both arrays where the order of entries is undefined: tied tokens and matched pairs."""
    if name.endswith("topk_indices"):
        # Padded tokens and tokens near the border all have the same score and the box (1, 1, 1, 1).
        tied = (golden[name.replace("indices", "anchors")] == 1).all(axis=-1)
        return np.where(tied, -1, value), np.where(tied, -1, expected)
    if "/matching/" in name:
        return value[value[:, 1].argsort()], expected[expected[:, 1].argsort()]
    return value, expected


def by_position(name: str, arrays: Arrays, golden: Golden) -> np.ndarray:
    """Reorder a field of detections: for each stored detection, the nearest one of the same class."""
    folder, field = name.rsplit("/", 1)
    distance = np.abs(arrays[f"{folder}/boxes"][None] - golden[f"{folder}/boxes"][:, None]).max(axis=-1)
    distance[arrays[f"{folder}/labels"][None] != golden[f"{folder}/labels"][:, None]] = np.inf
    return arrays[f"{folder}/{field}"][distance.argmin(axis=1)]


@pytest.fixture(scope="module")
def computed() -> dict[tuple[str, str], Arrays]:
    """Cache of results: a model runs once per precision, when the first test needs it."""
    return {}


CASES = [
    pytest.param(size, precision, name, id=f"{size}-{precision}-{name}", marks=marks(size, precision))
    for size in "tb"
    for precision in PRECISIONS
    for name in results(size)
    if not (precision == "float32" and "/grad_norm/" in name)
]


@pytest.mark.parametrize(("size", "precision", "name"), CASES)
def test_equals_mmdetection(
    size: str,
    precision: str,
    name: str,
    computed: dict[tuple[str, str], Arrays],
    repository: Path,
    tmp_path: Path,
    judge: Judge,
):
    dtype = PRECISIONS[precision]
    if (size, precision) not in computed:
        computed[size, precision] = compute(size, dtype, repository, tmp_path)
    arrays, (golden, noise) = computed[size, precision], stored(size)

    value, expected = without_ties(name, arrays[name], golden[name], golden)
    if dtype == torch.float32 and "detections/" in name:
        comparison = compare(name, by_position(name, arrays, golden), expected, torch.float64, noise)
        comparison = replace(comparison, tolerance=DETECTIONS_FLOAT32[name.rsplit("/", 1)[1]])
    elif dtype == torch.float64 and any(part in name for part in STORED_AS_FLOAT64):
        comparison = compare(name, value, expected, dtype, noise)
        comparison = replace(comparison, tolerance=comparison.tolerance * 1e-4)
    else:
        comparison = compare(name, value, expected, dtype, noise)
    judge(f"dino_{size}", precision, comparison)
