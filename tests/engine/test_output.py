"""Output folder and log of a run."""

import logging
import os

import pytest

from flash_internimage.engine.output import RunLog, check_writable, require_state_of_run
from flash_internimage.errors import UserError


def test_check_of_a_writable_folder_leaves_no_files(tmp_path):
    check_writable(str(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


def test_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"train.output_dir=.*file/run: cannot be written to \(.*file is a file\)"):
        check_writable(str(tmp_path / "file" / "run"))


def test_folder_without_write_permission(tmp_path, monkeypatch):
    def deny(**arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", deny)
    with pytest.raises(UserError, match=r"cannot be written to \(Permission denied\); choose another folder"):
        check_writable(str(tmp_path))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a read-only file system")
def test_read_only_file_system():
    with pytest.raises(UserError, match="train.output_dir=/proc/self/run: cannot be written to"):
        check_writable("/proc/self/run")


def test_log_file_starts_with_the_buffered_records(tmp_path):
    logger = logging.getLogger("flash_internimage.test")
    with RunLog() as log:
        logger.info("before")
        assert list(tmp_path.iterdir()) == []
        log.write_to(str(tmp_path))
        logger.info("after")
    logger.info("outside")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.rsplit(" ", 1)[-1] for line in lines] == ["before", "after"]


def test_run_that_does_not_start_writes_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunLog():
        logging.getLogger("flash_internimage.test").info("before")
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_without_training_state_cannot_be_resumed():
    require_state_of_run({"iteration": 3, "trainer": {}}, "output")
    with pytest.raises(ValueError, match="output/last_checkpoint contains weights, but no training state"):
        require_state_of_run({"classes": []}, "output")
