"""Stopping a run with a checkpoint on a signal: SIGTERM and SIGUSR1 of a scheduler, or Ctrl-C.

All processes of a run stop after the same iteration, or in the same evaluation, whichever of them receives the signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from detectron2.utils import comm

from flash_internimage.errors import UserError

EXIT_CODE = 75
"""Exit code of a run that SIGTERM or SIGUSR1 has stopped, EX_TEMPFAIL of sysexits.h: run it again with ``--resume``."""

INTERRUPTED_EXIT_CODE = 130
"""Exit code of a run that Ctrl-C has stopped, with or without a checkpoint, as shells define it."""

WORKER_GRACE_SECONDS = 30
"""Time after SIGTERM in which the workers of a loader still serve a run that is about to save its checkpoint."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
_NOTICE = "stopping with a checkpoint after this iteration; press Ctrl-C again to stop now\n"


class StoppedBySignal(UserError):
    """Raised in all processes of a run that stops for a signal; the hooks then save a checkpoint.

    Attributes:
        signal: the signal.
        exit_code: exit code of the program.
    """

    def __init__(self, number: int, iteration: int) -> None:
        self.signal = signal.Signals(number)
        self.exit_code = INTERRUPTED_EXIT_CODE if self.signal == signal.SIGINT else EXIT_CODE
        super().__init__(
            f"stopped by {self.signal.name} after iteration {iteration}, with a checkpoint; continue with --resume"
        )


class StopRequest:
    """Request to stop, set by the first stop signal that this process receives.

    Attributes:
        signal: number of the first signal; 0 if there was none.
    """

    def __init__(self) -> None:
        self.signal = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handle the stop signals inside the context, instead of dying from them; a second Ctrl-C still ends the process.

        Signals that the process ignores, as a background job of a shell script ignores SIGINT, remain ignored. Without effect
        outside the main thread, which alone can handle signals.
        """
        with handling(self._receive):
            yield self

    def _receive(self, number: int) -> None:
        if number == signal.SIGINT:
            if self.signal == signal.SIGINT:
                raise KeyboardInterrupt
            if comm.is_main_process():
                os.write(2, _NOTICE.encode())  # logging and print are not reentrant
        if self.signal == 0 or number == signal.SIGINT:
            self.signal = number


def agreed_signal(signals: Iterable[int]) -> int:
    """Return the signal that a run stops for, given those of its processes; 0 if it goes on.

    A launcher forwards Ctrl-C as another signal; SIGINT, if a process has received it, has the lowest number.
    """
    return min((number for number in signals if number), default=0)


@contextlib.contextmanager
def handling(receive: Callable[[int], None]) -> Iterator[None]:
    """Call ``receive`` with the number of each stop signal inside the context, in this process only.

    Forked processes, the loader's workers, inherit handlers. A signal to the whole process group must not end them before the
    run has reached its checkpoint: they end with the run, at the second SIGTERM, or :data:`WORKER_GRACE_SECONDS` after the
    first, which may also come from the run itself when it ends and a worker hangs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()
    terminated = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        if os.getpid() == owner:
            receive(number)
        elif number == signal.SIGTERM:
            if terminated:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            terminated = True
            signal.alarm(WORKER_GRACE_SECONDS)

    previous = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number, handler in previous.items() if handler not in (signal.SIG_IGN, None)]
    for number in handled:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, previous[number])
