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
    options: Any = None
    if backend == "inductor":
        options = _inductor_options()
        _call_convolution_backward()
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
    - Layouts are those of the model. Otherwise, (N, H, W, C) features are taken for (N, C, H, W) and transposed to
      channels-last; the backward pass then has strides that are numbers, and is compiled again for every new image size.
    """
    from torch._inductor import config  # takes seconds to import

    options = {"fallback_random": True, "strict_output_strides": True, "layout_optimization": False}
    return {name: value for name, value in options.items() if hasattr(config, name)}


def _call_convolution_backward() -> None:
    """Let Inductor call PyTorch's backward pass of convolutions, in this process.

    PyTorch 2.11 does so. The lowering of 2.14 compares strides as numbers, so that every new image size is compiled again, and
    then calls the same function on CUDA and on a CPU.
    """
    from torch._inductor import lowering
    from torch._inductor.kernel import conv

    operator = torch.ops.aten.convolution_backward.default
    if hasattr(conv, "convolution_backward_lowering"):
        lowering.lowerings.pop(operator, None)
        lowering.make_fallback(operator, lowering.constrain_to_fx_strides, warn=False, override_decomp=True)


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
