"""File lock between processes, which is released when its process ends, even if it is killed."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)


class LockedError(Exception):
    """Raised if another process holds a lock; the message is its process id and host."""


class FileLock:
    """Context manager that creates a file and holds a lock on it; the file contains the process id and the host.

    The lock is a POSIX lock (``fcntl``): child processes do not inherit it, so that a loader worker which outlives its killed
    parent does not hold it; over NFS it excludes processes of other hosts, too. Without such locks (Windows, some network
    file systems) nothing is locked, and ``held`` is False.

    Args:
        path: the file; its folder exists.
        purpose: what the process that holds the lock does, such as "reads a.json", for the message before waiting for it.
            None: an error is raised instead of waiting.

    Attributes:
        held: whether the lock is held.
    """

    def __init__(self, path: str | os.PathLike[str], purpose: str | None = None) -> None:
        self._path = Path(path)
        self._purpose = purpose
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def __enter__(self) -> FileLock:
        """Acquire the lock.

        Raises:
            LockedError: another process holds it.
        """
        while fcntl is not None and self._descriptor is None:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._lock(descriptor)
            except OSError as error:
                os.close(descriptor)
                logger.warning("%s: the file system has no locks (%s)", self._path, error.strerror)
                break
            except BaseException:
                os.close(descriptor)
                raise
            if self._is_current(descriptor):
                self._descriptor = descriptor
                os.ftruncate(descriptor, 0)
                with contextlib.suppress(OSError):  # a full disk; the lock holds without its text
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            else:  # the previous owner has deleted the file, and a third process may hold a new one
                os.close(descriptor)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Delete the file and release the lock."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, descriptor: int) -> None:
        """Lock an open file.

        Raises:
            LockedError: another process holds the lock.
            OSError: the file system has no locks.
        """
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD_BY_ANOTHER:
                raise
            owner = os.read(descriptor, 1000).decode("utf-8", "replace").strip() or "an unknown process"
            if self._purpose is None:
                raise LockedError(owner) from error
            logger.info("waiting for %s, which %s", owner, self._purpose)
            fcntl.lockf(descriptor, fcntl.LOCK_EX)

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False
