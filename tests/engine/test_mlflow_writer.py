"""The MLflow writer with a database if MLflow is installed, with a fake ``mlflow``, and the error without it."""

import logging
import signal
import sys
from unittest.mock import MagicMock

import numpy as np
import pytest
from detectron2.utils.events import EventStorage

from flash_internimage.engine import experiment_writer
from flash_internimage.engine.mlflow_writer import MLflowWriter
from flash_internimage.engine.stopping import StoppedBySignal
from flash_internimage.errors import UserError

SERVER = "http://me:secret@127.0.0.1:9"  # nothing listens there


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)  # where MLflow puts the artifacts of a database
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def client(store):
    pytest.importorskip("sqlalchemy")  # mlflow-skinny comes without it
    return pytest.importorskip("mlflow").MlflowClient(store)


@pytest.fixture
def fake(monkeypatch):
    """A ``mlflow`` whose client accepts every call, and records it."""
    module = MagicMock()
    module.exceptions.MlflowException = type("MlflowException", (Exception,), {})
    module.MlflowClient.return_value.create_run.return_value.info.run_id = "abc123"
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return module


def writer(folder, store, resumed=False):
    return MLflowWriter("shapes", "first", store, {"max_iter": 8}, str(folder), resumed)


def test_scalars_images_and_config_are_in_the_store_also_after_a_resume(tmp_path, store, client):
    written = writer(tmp_path / "out", store)
    with EventStorage(0) as storage:
        storage.put_scalar("total_loss", 3.0)
        written.write()
        storage.step()
        storage.put_scalar("bbox/AP-US$ fork", 40.0, smoothing_hint=False)
        storage.put_image("validation/1", np.zeros((3, 20, 30), np.uint8))
        written.write()
        storage.clear_images()
        written.write()
    written.close()
    continued = writer(tmp_path / "out", store, resumed=True)
    with EventStorage(2) as storage:
        storage.put_scalar("total_loss", 1.0)
        continued.write()
    continued.close()

    (run,) = client.search_runs([client.get_experiment_by_name("shapes").experiment_id])
    history = {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}
    assert history == {"total_loss": [(0, 3.0), (2, 1.0)], "bbox/AP-US_ fork": [(1, 40.0)]}
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["config.json", "validation"]
    assert [a.path for a in client.list_artifacts(run.info.run_id, "validation/1")] == ["validation/1/0000001.png"]
    writer(tmp_path / "out", store)  # not resumed: another run
    assert len(client.search_runs([run.info.experiment_id])) == 2


def test_not_installed(monkeypatch, tmp_path, store):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(
        ValueError, match=r"train.mlflow.enabled=true needs mlflow, .* pip install mlflow \(the extra \[mlflow\]\)"
    ):
        writer(tmp_path / "out", store)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("uri", ["foo://bar", SERVER, SERVER.replace("http", "postgresql")])
def test_store_that_cannot_be_reached_is_one_sentence(tmp_path, store, uri):
    pytest.importorskip("mlflow")
    with pytest.raises(UserError, match=r"^train\.mlflow: .* correct train\.mlflow\.tracking_uri") as raised:
        writer(tmp_path / "out", uri)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_deleted_experiment_and_run(tmp_path, store, client):
    writer(tmp_path / "out", store)
    client.delete_run((tmp_path / "out/mlflow_run_id").read_text().strip())
    with pytest.raises(UserError, match=r"deleted.*remove .*out/mlflow_run_id to start another run"):
        writer(tmp_path / "out", store, resumed=True)
    client.delete_experiment(client.get_experiment_by_name("shapes").experiment_id)
    with pytest.raises(UserError, match=r"deleted.* train\.mlflow\.experiment"):
        writer(tmp_path / "other", store)


def test_failure_at_the_start_is_one_sentence(tmp_path, fake):
    fake.MlflowClient.return_value.get_experiment_by_name.side_effect = fake.exceptions.MlflowException(
        f"API request to {SERVER}/api failed\nwith a long story"
    )
    with pytest.raises(UserError, match="API request to http://127.0.0.1:9/api failed with a long story"):
        writer(tmp_path / "out", SERVER)
    assert not (tmp_path / "out").exists()


def test_long_reason_is_visibly_shortened(tmp_path, fake):
    fake.MlflowClient.side_effect = fake.exceptions.MlflowException("no answer " * 100)
    with pytest.raises(UserError, match=r"\(no answer .* \.\.\.\); correct") as raised:
        writer(tmp_path / "out", SERVER)
    assert len(str(raised.value)) < 600


def test_lost_server_does_not_end_the_training(tmp_path, fake, caplog, monkeypatch):
    client = fake.MlflowClient.return_value
    written = writer(tmp_path / "out", SERVER)
    client.log_batch.side_effect = RuntimeError(f"no answer from {SERVER}")

    def write(iteration):
        with EventStorage(iteration) as storage:
            storage.put_scalar("total_loss", 3.0)
            written.write()

    with caplog.at_level(logging.WARNING):
        write(0)
        write(1)
        assert client.log_batch.call_count == 1  # no request while the server is assumed to be away
        monkeypatch.setattr(experiment_writer, "_PAUSE_SECONDS", 0.0)
        write(2)
        assert client.log_batch.call_count == 2
        client.log_batch.side_effect = None
        write(3)
        assert client.log_batch.call_count == 3
        client.set_terminated.side_effect = OSError("no answer")
        written.close()
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "no answer from http://127.0.0.1:9" in warnings[0]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (UserError("NaN loss"), "FAILED"),
        (StoppedBySignal(signal.SIGTERM, 3), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
)
def test_status_says_how_the_run_ended(tmp_path, fake, error, status):
    written = writer(tmp_path / "out", None)
    written.end(error)
    fake.MlflowClient.return_value.set_terminated.assert_called_once_with("abc123", status=status)


def test_status_is_one_of_mlflow(client):
    statuses = pytest.importorskip("mlflow.entities").RunStatus
    assert all(statuses.is_terminated(statuses.from_string(name)) for name in ("FINISHED", "FAILED", "KILLED"))
