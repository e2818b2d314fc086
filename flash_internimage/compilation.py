"""Compilation of the parts of a detector that are functions of tensors, with ``torch.compile``."""

from __future__ import annotations

import torch
from torch import nn

from .errors import UserError
from .family_lookup import detector_family


def compile_parts(model: nn.Module) -> list[str]:
    """Compile the backbone, and what the family of the detector lists, in place, for inference.

    Returns:
        The paths of the compiled modules: of nested ones, the innermost.
    """
    family = detector_family({name for name, _ in model.named_parameters()})
    compiled = ("backbone.bottom_up", "backbone", *(() if family is None else family.compiled))
    paths = [path for path, _ in model.named_modules() if path in compiled]
    innermost = [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]
    for path in innermost:
        module = model.get_submodule(path)
        module.forward = torch.compile(module.forward)
    return innermost


class GraphCounter:
    """Counts the graphs that are compiled from now on in this process.

    ``torch.compile`` runs a function as before if it cannot compile it, for instance because an environment variable disables
    it.
    """

    def __init__(self) -> None:
        self._before = _compiled_graphs()

    def require_some(self, setting: str) -> int:
        """Return the number of graphs.

        Args:
            setting: the setting that compiles, for the message.

        Raises:
            UserError: there are none.
        """
        found = _compiled_graphs() - self._before
        if not found:
            raise UserError(
                f"{setting}: torch.compile has compiled nothing; unset TORCHDYNAMO_DISABLE and TORCH_COMPILE_DISABLE, or run "
                f"without {setting}"
            )
        return found


def _compiled_graphs() -> int:
    from torch._dynamo.utils import counters  # takes seconds to import

    return int(counters["stats"]["unique_graphs"])
