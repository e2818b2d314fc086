"""The MLflow writer on a file store, and the error without MLflow."""

import sys

import numpy as np
import pytest
from detectron2.utils.events import EventStorage

from flash_internimage.engine.mlflow_writer import MLflowWriter


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # needed since MLflow 3.7, which prefers a database
    return (tmp_path / "mlruns").as_uri()


def writer(folder, store, resumed=False):
    return MLflowWriter("shapes", "first", store, {"max_iter": 8}, str(folder), resumed)


def test_scalars_images_and_config_are_in_the_store_also_after_a_resume(tmp_path, store):
    mlflow = pytest.importorskip("mlflow")
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

    client = mlflow.MlflowClient(store)
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
