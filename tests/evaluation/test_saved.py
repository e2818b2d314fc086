"""Files of saved evaluations."""

from flash_internimage.evaluation.saved import EVALUATION_FILE, GROUND_TRUTH_FILE, PREDICTIONS_FILE, remove_evaluation


def test_removal_keeps_other_files(tmp_path):
    for name in (EVALUATION_FILE, GROUND_TRUTH_FILE, PREDICTIONS_FILE, "notes.txt"):
        (tmp_path / name).write_text("{}")
    remove_evaluation(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    remove_evaluation(tmp_path / "folder that does not exist")
