"""Output folder and log of a run."""

import logging
import os

import pytest

from flash_internimage.engine import output
from flash_internimage.engine.output import (
    RunLog,
    check_writable,
    locked_folder,
    remove_other_run,
    require_no_other_run,
    require_start_elsewhere,
    require_state_of_run,
)
from flash_internimage.errors import UserError
from flash_internimage.locks import LockedError


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


def test_folder_of_another_run_is_refused(tmp_path, monkeypatch):
    class Held:
        def __init__(self, path):
            assert path == tmp_path / "new" / "run.lock"

        def __enter__(self):
            raise LockedError("process 7 on gpu03")

        def __exit__(self, *error):
            """Has not been entered."""

    monkeypatch.setattr(output, "FileLock", Held)
    with (
        pytest.raises(UserError, match=r"new: another run is writing to this folder \(process 7 on gpu03\); wait for it"),
        locked_folder(str(tmp_path / "new"), on_main_process=True),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_lock_and_empty_folder_of_a_run_are_removed(tmp_path):
    with locked_folder(str(tmp_path / "a" / "b"), on_main_process=True):
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["run.lock"]
    assert list(tmp_path.iterdir()) == []


OF_A_RUN = ["model_0000099.pth", "model_final.pth", "model_best.pth", "model_best.json", "last_checkpoint", "metrics.json"]


def test_checkpoints_of_another_run(tmp_path):
    require_no_other_run(str(tmp_path / "missing"))
    for name in (*OF_A_RUN, "events.out.tfevents.1.host", "log.txt", "model.pth"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"\(model_0000099.pth, model_best.pth, .*continue it with --resume, .*--overwrite"):
        require_no_other_run(str(tmp_path))
    remove_other_run(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"log.txt", "model.pth"}


def test_a_new_run_cannot_start_from_the_run_that_it_deletes(tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    for name in ("model_final.pth", "model.pth"):
        (folder / name).write_text("")
    require_start_elsewhere(str(folder), str(folder / "model.pth"))
    require_start_elsewhere(str(folder), "hf://a/b/model_final.pth")
    require_start_elsewhere(str(folder), "")
    with pytest.raises(UserError, match="link/model_final.pth: belongs to the run that --overwrite deletes; move the file"):
        require_start_elsewhere(str(folder), str(tmp_path / "link" / "model_final.pth"))


def test_log_on_a_full_disk_prints_no_traceback(tmp_path, capfd, monkeypatch):
    for name in ("", "flash_internimage"):  # handlers of earlier tests write to streams that are closed
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with RunLog() as log:
        log.write_to(str(tmp_path))
        logging.getLogger("flash_internimage.test").info("lost")
    assert "Traceback" not in capfd.readouterr().err
