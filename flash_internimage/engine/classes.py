"""Names of the classes that a checkpoint's model tells apart, kept beside its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flash_internimage.errors import UserError


class ClassNames:
    """Class names as something that a checkpointer saves: ``checkpointer.add_checkpointable("classes", ClassNames(names))``."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def state_dict(self) -> list[str]:
        return self.names

    def load_state_dict(self, names: Any) -> None:
        require_same_classes(names, self.names)


def require_same_classes(in_checkpoint: Sequence[str] | None, in_data: Sequence[str] | None) -> None:
    """Raise an error if a checkpoint's classes are known and are not those of the data, in the same order.

    Raises:
        UserError: they differ; the message shows where first.
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
