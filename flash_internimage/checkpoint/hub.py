"""Paths ``hf://org/repo/file`` to files of the Hugging Face hub, for detectron2's path manager.

A file is downloaded once into the hub's cache (``HF_HOME``), with a progress bar; an interrupted download is resumed. Later
uses need no network. ``hf://org/repo@revision/file`` selects a branch, tag or commit; with ``HF_HUB_OFFLINE=1`` only the
cache is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from iopath.common.file_io import PathHandler, PathManager

from flash_internimage.errors import UserError
from flash_internimage.files import full_disk_reported

from .reading import CheckpointError

PREFIX = "hf://"
HttpError: type[Exception] = HfHubHTTPError.__bases__[0]
"""The base error of the HTTP library, which differs between releases of huggingface_hub."""
_PATH = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")


@dataclass(frozen=True)
class HubFile:
    """A file in a repository of the hub."""

    repo: str
    file: str
    revision: str

    @classmethod
    def parse(cls, path: str) -> HubFile:
        """Parse ``hf://org/repo[@revision]/file``.

        Raises:
            CheckpointError: the path does not have this form.
        """
        found = _PATH.fullmatch(path)
        if found is None or not {"", ".", ".."}.isdisjoint(re.split(r"[/@\\]", path.removeprefix(PREFIX))):
            raise CheckpointError(
                f"{path}: expected hf://organization/repository/file or hf://organization/repository@revision/file"
            )
        return cls(found["repo"], found["file"], found["revision"] or constants.DEFAULT_REVISION)

    @property
    def url(self) -> str:
        """The URL of the file for a browser."""
        return f"{constants.ENDPOINT}/{self.repo}/resolve/{self.revision}/{self.file}"


def fetch(path: str) -> str:
    """Return the local path of a file of the hub, after downloading it if it is not in the cache.

    Args:
        path: ``hf://org/repo[@revision]/file``.

    Raises:
        CheckpointError: there is no such file, or it is not in the cache and the hub cannot be reached; the message has
            the URL to download it by hand, and how to use it then.
        UserError: the disk with the cache is full.
    """
    with full_disk_reported(constants.HF_HUB_CACHE, _newest_part):
        return _fetch(path, HubFile.parse(path))


def _newest_part() -> Path | None:
    """The file of the last download that did not end, which the hub's library leaves to be resumed."""
    parts = Path(constants.HF_HUB_CACHE).rglob("*.incomplete")
    return max(parts, key=lambda part: part.stat().st_mtime, default=None)


def _fetch(path: str, wanted: HubFile) -> str:
    try:
        return hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision)
    except LocalEntryNotFoundError as error:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub could not be reached"
        raise CheckpointError(
            f"{path}: not in the cache ({constants.HF_HUB_CACHE}), and {reason}; download {wanted.url} on a machine with "
            "network access, and give the path of the file instead (--weights, or train.init_checkpoint=/path/to/the/file)"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{path}: the repository {wanted.repo} has no revision {wanted.revision}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"{path}: the hub has no public repository {wanted.repo}; for a private one log in with `hf auth login`"
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(
            f"{path}: the repository {wanted.repo} has no file {wanted.file} at {wanted.revision}; "
            f"see {constants.ENDPOINT}/{wanted.repo}/tree/{wanted.revision}"
        ) from error
    except (HttpError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path}: downloading {wanted.url} failed ({reason}); try again, or download it by hand and give its path"
        ) from error


class HubPathHandler(PathHandler):
    """Opens ``hf://`` paths for reading through iopath's path managers, such as detectron2's."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        return fetch(path)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        if mode not in ("r", "rb"):
            raise UserError(f"{path}: files of the hub can only be read, got mode {mode!r}")
        encoding = None if "b" in mode else "utf-8"
        return open(self._get_local_path(path, **kwargs), mode, buffering=buffering, encoding=encoding)


def register(path_manager: PathManager) -> None:
    """Register the handler of ``hf://`` paths with a path manager; repeated calls have no effect."""
    path_manager.register_handler(HubPathHandler(), allow_override=True)
