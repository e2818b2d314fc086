"""detectron2's checkpointer with atomic writes, safe reading, and recognition of published checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from flash_internimage.errors import UserError
from flash_internimage.files import write_atomically
from flash_internimage.path_manager import PathManager
from flash_internimage.plurals import counted

from . import hub
from .formats import class_names_of, recognize, uncompiled_name
from .matching import Match, examples, match
from .reading import CheckpointError, read_checkpoint

hub.register(PathManager)


class Checkpointer(DetectionCheckpointer):
    """Loads this project's, the published and plain checkpoints; saves this project's.

    A file is recognized by its contents (:func:`.formats.recognize`) and read with ``weights_only=True``. The log says in one
    line what was found. Tensors that do not fit the model are an error, with three exceptions that are logged: layers that
    depend on the number of classes are re-initialized if that number differs, an ImageNet checkpoint fills only the
    backbone, and heads that the model was configured without are left in the file. Files are written atomically: a run that is
    killed leaves the previous checkpoint intact. A compiled model, or one with compiled modules, is loaded and saved like a
    plain one.

    The interface is detectron2's: ``Checkpointer(model, save_dir, optimizer=…)``, ``.save``, ``.load``, ``.resume_or_load``.

    Attributes:
        last_match: how the tensors of the file loaded last match the model's; None before the first one.
    """

    last_match: Match | None = None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file into the model and into those checkpointables that the file has.

        Args:
            path: a local path, or one that detectron2's path manager resolves (``hf://org/repo/file``, ``https://…``);
                if empty, nothing is loaded.
            checkpointables: names of the checkpointables to load; None for all.

        Returns:
            The other contents of the file, such as ``iteration``.

        Raises:
            CheckpointError: the file cannot be read, or does not fit the model.
        """
        if path:
            path = self.path_manager.get_local_path(path)
            if not os.path.isfile(path):
                raise CheckpointError(f"checkpoint {path}: no such file")
        try:
            return super().load(path, checkpointables)
        except UserError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError) as error:  # of a checkpointable
            raise CheckpointError(
                f"checkpoint {path}: its training state is damaged or of another version ({type(error).__name__}: {error}); "
                "start from its weights with train.init_checkpoint instead"
            ) from error

    def load_complete(self, path: str) -> dict[str, Any]:
        """Load the model from a file that must fill it completely, as evaluation needs it, and no checkpointables.

        Raises:
            CheckpointError: as for :meth:`load`, or a tensor of the model would keep its random initial value.
        """
        if not path:
            raise CheckpointError("no checkpoint given: name one with train.init_checkpoint=PATH")
        rest = self.load(path, checkpointables=[])
        unfilled = self.unfilled()
        if unfilled:
            raise CheckpointError(
                f"checkpoint {path}: it does not fill the model, {counted(unfilled, 'tensor')} would stay random "
                f"({examples(unfilled)}); give the checkpoint of a trained detector of this configuration"
            )
        return rest

    def unfilled(self) -> list[str]:
        """Names of the model's tensors that the file loaded last has not filled; all of them if none was loaded."""
        names = self._uncompiled_state()
        filled = set() if self.last_match is None else set(self.last_match.matched)
        return [name for name in names if name not in filled]

    def save(self, name: str, **kwargs: Any) -> None:
        """Write the model, the checkpointables and ``kwargs`` to ``<save_dir>/<name>.pth``, atomically."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self._uncompiled_state()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        basename = f"{name}.pth"
        save_file = os.path.join(self.save_dir, basename)
        self.logger.info("Saving checkpoint to %s", save_file)
        write_atomically(save_file, lambda path: torch.save(data, path))
        self.tag_last_checkpoint(basename)

    def has_checkpoint(self) -> bool:
        """Return whether ``save_dir`` has a checkpoint to resume from."""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Return the path of the checkpoint to resume from; empty if there is none.

        It is the one named in ``last_checkpoint``. If that note or the named file is missing, because a run was killed after
        its first checkpoint or a file was deleted, it is the newest periodic checkpoint.
        """
        noted = super().get_checkpoint_file()
        if not self.save_dir or os.path.isfile(noted):
            return noted
        newest = max(Path(self.save_dir).glob("model_" + "[0-9]" * 7 + ".pth"), default=None)
        if newest is None:
            return noted
        self.logger.warning(
            "%s; resuming from the newest periodic checkpoint, %s",
            f"{noted}, named in last_checkpoint, is missing" if noted else f"{self.save_dir} has no last_checkpoint",
            newest.name,
        )
        return str(newest)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the newest checkpoint atomically: with half a name a run could not be resumed."""
        note = Path(self.save_dir) / "last_checkpoint"
        write_atomically(note, lambda path: path.write_text(last_filename_basename, encoding="utf-8"))

    def _load_file(self, filename: str) -> dict[str, Any]:
        contents = read_checkpoint(filename)
        try:
            class_names_of(contents)
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {filename}: {error}") from error
        # Only this project's own files hold a state of the optimizer that can be resumed.
        own = contents if isinstance(contents.get("model"), Mapping) else {}
        return {**{key: own[key] for key in own if key != "model"}, "path": filename, "contents": contents}

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        path, contents = checkpoint.pop("path"), checkpoint.pop("contents")
        model_state = self._uncompiled_state()
        try:
            found = recognize(contents, model_state)
        except ValueError as error:
            raise CheckpointError(f"checkpoint {path}: {error}") from error
        self.last_match = fit = match(model_state, found.tensors)
        report = f"{path}: {found.title}, {counted(found.tensors, 'tensor')}: {fit.summary()}"
        if fit.unexpected or fit.wrong_shape or (found.whole and fit.missing):
            raise CheckpointError(f"{report}; this file belongs to another model: check the config or the checkpoint")
        self._check_values(path, model_state, found.tensors, fit.matched)
        if found.dropped:
            report += f"; {len(found.dropped)} left out ({examples(found.dropped)})"
        self.logger.info(report)
        matched = set(fit.matched)
        own_names = {name: plain for name in self.model.state_dict() if (plain := uncompiled_name(name)) in matched}
        self.model.load_state_dict({name: found.tensors[plain] for name, plain in own_names.items()}, strict=False)

    def _check_values(
        self, path: str, model: Mapping[str, torch.Tensor], file: Mapping[str, torch.Tensor], matched: Sequence[str]
    ) -> None:
        """Refuse matched tensors whose kind of dtype differs from the model's; log a warning for NaN and infinite values."""
        for name in matched:
            if _kind(file[name].dtype) != _kind(model[name].dtype):
                raise CheckpointError(
                    f"checkpoint {path}: {name} holds {_kind(file[name].dtype)} numbers ({file[name].dtype}), the model has "
                    f"{_kind(model[name].dtype)} numbers ({model[name].dtype}); these are not weights of a trained model"
                )
        broken = [name for name in matched if not _is_finite(file[name])]
        if broken:
            self.logger.warning(
                "%s: %s NaN or infinite values (%s); the training diverged, or the file is damaged",
                path,
                counted(broken, "tensor holds", "tensors hold"),
                examples(broken),
            )

    def _uncompiled_state(self) -> dict[str, torch.Tensor]:
        """The model's state dict under the names that it has without ``torch.compile``."""
        return {uncompiled_name(name): tensor for name, tensor in self.model.state_dict().items()}


def _kind(dtype: torch.dtype) -> str:
    return "complex" if dtype.is_complex else "floating-point" if dtype.is_floating_point else "whole"


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
