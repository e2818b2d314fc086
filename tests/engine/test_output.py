"""The output folder before and during a run."""

import logging
import os

import pytest

from flash_internimage.engine.output import RunLog, check_writable, require_state_of_run
from flash_internimage.errors import UserError


def test_writable_folder_is_left_as_it_is(tmp_path):
    check_writable(str(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"train.output_dir=.*file/run: cannot be written to \(.*file is a file\)"):
        check_writable(str(tmp_path / "file" / "run"))


def test_a_folder_that_refuses(tmp_path, monkeypatch):
    def refuse(**arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"cannot be written to \(Permission denied\); choose another folder"):
        check_writable(str(tmp_path))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that nobody can write to")
def test_a_read_only_file_system():
    with pytest.raises(UserError, match="train.output_dir=/proc/self/run: cannot be written to"):
        check_writable("/proc/self/run")


def test_log_file_begins_with_what_came_before_it(tmp_path):
    logger = logging.getLogger("flash_internimage.test")
    with RunLog() as log:
        logger.info("before")
        assert list(tmp_path.iterdir()) == []
        log.write_to(str(tmp_path))
        logger.info("after")
    logger.info("outside")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.rsplit(" ", 1)[-1] for line in lines] == ["before", "after"]


def test_a_run_that_never_starts_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunLog():
        logging.getLogger("flash_internimage.test").info("before")
    assert list(tmp_path.iterdir()) == []


def test_weights_alone_cannot_be_resumed():
    require_state_of_run({"iteration": 3, "trainer": {}}, "output")
    with pytest.raises(ValueError, match="output/last_checkpoint names holds weights but no state of a run"):
        require_state_of_run({"classes": []}, "output")
