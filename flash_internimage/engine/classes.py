"""Class names stored in checkpoints, and their comparison with those of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flash_internimage.errors import UserError


class ClassNames:
    """Checkpointable wrapper of class names: ``checkpointer.add_checkpointable("classes", ClassNames(names))``."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def state_dict(self) -> list[str]:
        return self.names

    def load_state_dict(self, names: Any) -> None:
        require_same_classes(names, self.names)


def require_same_classes(in_checkpoint: Sequence[str] | None, in_data: Sequence[str] | None) -> None:
    """Raise an exception unless the checkpoint and the data have the same classes in the same order.

    Args:
        in_checkpoint: class names in the checkpoint; None if unavailable, then nothing is compared.
        in_data: class names of the data; None if unavailable, then nothing is compared.

    Raises:
        UserError: the classes differ; the message shows the first difference.
    """
    if in_checkpoint is None or in_data is None or list(in_checkpoint) == list(in_data):
        return
    if len(in_checkpoint) != len(in_data):
        difference = f"{len(in_checkpoint)} classes ({_some(in_checkpoint)}), the data has {len(in_data)} ({_some(in_data)})"
    else:
        number = next(i for i, (ours, theirs) in enumerate(zip(in_checkpoint, in_data, strict=True)) if ours != theirs)
        difference = f"{in_checkpoint[number]!r} as class {number}, the data has {in_data[number]!r}"
    raise UserError(
        f"the checkpoint was trained with other classes: it has {difference}; "
        "use data with the same categories in the same order of ids, or another checkpoint"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
