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
        wait: whether to wait for the lock instead of raising an error.

    Attributes:
        held: whether the lock is held.
    """

    def __init__(self, path: str | os.PathLike[str], wait: bool = False) -> None:
        self._path = Path(path)
        self._wait = wait
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
                fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if self._wait else fcntl.LOCK_NB))
            except OSError as error:
                owner = os.read(descriptor, 1000).decode("utf-8", "replace").strip()
                os.close(descriptor)
                if error.errno in _HELD_BY_ANOTHER:
                    raise LockedError(owner or "an unknown process") from error
                logger.warning("%s: the file system has no locks (%s)", self._path, error.strerror)
                break
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

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False
