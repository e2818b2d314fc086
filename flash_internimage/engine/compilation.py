"""Compilation of a detector's backbone and neck for training, with ``torch.compile``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import nn

from flash_internimage.compilation import GraphCounter
from flash_internimage.errors import UserError

logger = logging.getLogger(__name__)

_PARTS = ("backbone", "neck")
"""Modules that are functions of tensors in all detectors. In the R-CNNs the feature pyramid is part of the backbone."""


def compile_for_training(model: nn.Module, backend: str = "inductor") -> list[str]:
    """Compile the backbone and the neck of a model, in place, for images of any size.

    Only their ``forward`` is replaced, so the names of their parameters stay. Random numbers, those of stochastic depth, are
    drawn as without compilation. Without gradients, in evaluation, the modules run uncompiled.

    Args:
        model: a detector, not wrapped for distributed training.
        backend: of ``torch.compile``.

    Returns:
        Names of the compiled modules.

    Raises:
        UserError: the model has neither a backbone nor a neck.
    """
    modules = dict(model.named_children())
    found = [name for name in _PARTS if name in modules]
    if not found:
        raise UserError(
            f"train.compile=true: compiles {' and '.join(_PARTS)}, but {type(model).__name__} has only {', '.join(modules)}; "
            "set train.compile=false"
        )
    options: Any = _inductor_options() if backend == "inductor" else None
    for name in found:
        module = modules[name]
        compiled = torch.compile(module.forward, dynamic=True, backend=backend, options=options)
        module.forward = _with_gradients(compiled, module.forward)
    return found


def _with_gradients(compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Call one function with gradients and the other without: a graph for evaluations would take minutes to compile, too."""

    @wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else plain)(*args, **kwargs)

    return forward


def _inductor_options() -> dict[str, bool]:
    """Options of Inductor that the training needs; older versions lack some.

    - Random numbers are those without compilation.
    - Outputs have the strides of the model. Otherwise, PyTorch 2.14 orders the dimensions of an output that is a view by its
      strides, which it cannot compare while the size of the image is a symbol.
    - Convolutions are channels-last, as in the backbone. Otherwise, their backward pass compares strides as numbers,
      so that every new image size is compiled again.
    """
    from torch._inductor import config  # takes seconds to import

    names = ("fallback_random", "strict_output_strides", "force_layout_optimization")
    return {name: True for name in names if hasattr(config, name)}


class RequireCompiled(HookBase):
    """Logs what has been compiled after the first iteration, and raises an error if that is nothing."""

    def __init__(self, modules: Sequence[str]) -> None:
        """
        Args:
            modules: names of the compiled modules, as :func:`compile_for_training` returns them.
        """
        self._modules = modules
        self._counter = GraphCounter()

    def before_train(self) -> None:
        logger.info("Compiling %s; the first iterations take minutes", " and ".join(self._modules))

    def after_step(self) -> None:
        if self.trainer.iter > self.trainer.start_iter:
            return
        graphs = self._counter.require_some("train.compile=true")
        logger.info("Compiled %s with dynamic image sizes; number of graphs: %d", " and ".join(self._modules), graphs)
