"""Locks between processes."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from flash_internimage.locks import FileLock, LockedError

HOLDER = """
import sys, time
from flash_internimage.locks import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path, repository):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_lock_of_another_process_is_refused_with_its_id(tmp_path, holder):
    with pytest.raises(LockedError, match=f"process {holder.pid} on "), FileLock(tmp_path / "lock"):
        pass
    assert (tmp_path / "lock").exists()


def test_lock_ends_with_its_process(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "lock").exists()
    with FileLock(tmp_path / "lock") as lock:
        assert lock.held
        assert f"process {os.getpid()} on " in (tmp_path / "lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_waiting_is_logged_before_it_starts(tmp_path, holder, caplog):
    caplog.set_level(logging.INFO)
    timer = threading.Timer(0.5, holder.kill)
    timer.start()
    with FileLock(tmp_path / "lock", purpose="reads a.json") as lock:
        assert lock.held
    timer.join()
    assert caplog.messages == [f"waiting for process {holder.pid} on {socket.gethostname()}, which reads a.json"]


def test_no_waiting_is_not_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with FileLock(tmp_path / "lock", purpose="reads a.json") as lock:
        assert lock.held
    assert caplog.messages == []
