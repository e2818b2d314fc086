"""The report after the fact."""

import shutil

import pytest


@pytest.mark.parametrize("inner", ["", "inference"], ids=["output folder", "folder of the evaluation"])
def test_written_into_the_folder_that_is_given(flash_internimage, evaluated, tmp_path, inner):
    shutil.copytree(evaluated, tmp_path / "run")
    (tmp_path / "run" / "inference" / "config.yaml").write_text("model: Tiny of this run\n")
    folder = tmp_path / "run" / inner
    done = flash_internimage("report", folder, "--threshold", "0.7", "--limit", "0")
    assert (done.returncode, done.stdout) == (0, f"{folder / 'report.html'}\n")
    page = (folder / "report.html").read_text()
    assert "model: Tiny of this run" in page
    assert "with a score of at least 0.7" in page


def test_no_evaluation(flash_internimage, tmp_path):
    done = flash_internimage("report", tmp_path, "--output", tmp_path / "pages")
    assert done.returncode == 1
    assert "holds no evaluation.json" in done.stderr
    assert not list(tmp_path.iterdir())


def test_another_folder(flash_internimage, evaluated, tmp_path):
    done = flash_internimage("report", evaluated, "--output", tmp_path / "new/pages", "--limit", "0")
    assert done.returncode == 0
    assert [path.name for path in (tmp_path / "new/pages").iterdir()] == ["report.html"]


def test_the_run_that_is_named_has_precedence(flash_internimage, evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "finetune")
    (tmp_path / "pretrain").mkdir()
    for name, iteration in (("finetune", 11), ("pretrain", 22)):
        lines = "".join(f'{{"iteration": {iteration + i}, "total_loss": 1.5}}\n' for i in range(2))
        (tmp_path / name / "metrics.json").write_text(lines)
    page = tmp_path / "finetune/report.html"
    arguments = ("report", tmp_path / "finetune", "--limit", "0")
    assert flash_internimage(*arguments).returncode == 0
    own = page.read_text()
    assert flash_internimage(*arguments, "--run", tmp_path / "pretrain").returncode == 0
    assert page.read_text() != own
    done = flash_internimage(*arguments, "--run", tmp_path / "pretrian")
    assert done.returncode == 1
    assert "pretrian: expected the output folder of a training, but it has no metrics.json" in done.stderr
