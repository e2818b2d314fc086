"""The report after the fact."""

import shutil

import pytest


@pytest.mark.parametrize("inner", ["", "inference"], ids=["output folder", "folder of the evaluation"])
def test_written_into_the_folder_that_is_given(run_tool, evaluated, tmp_path, inner):
    shutil.copytree(evaluated, tmp_path / "run")
    (tmp_path / "run" / "inference" / "config.yaml").write_text("model: Tiny of this run\n")
    folder = tmp_path / "run" / inner
    code, out, _ = run_tool("report", folder, "--threshold", "0.7", "--pictures", "0")
    assert (code, out) == (0, f"{folder / 'report.html'}\n")
    page = (folder / "report.html").read_text()
    assert "model: Tiny of this run" in page
    assert "a score of 0.7 or more" in page


def test_no_evaluation(run_tool, tmp_path):
    code, _, err = run_tool("report", tmp_path, "--output", tmp_path / "page.html")
    assert code == 1
    assert "holds no evaluation.json" in err
    assert not list(tmp_path.iterdir())
