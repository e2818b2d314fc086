"""Choosing images of a dataset to draw."""

from flash_internimage.analysis.dataset import choose


def test_rare_categories_are_shown_first():
    dataset_dicts = [{"annotations": [{"category_id": 1}], "file_name": str(n)} for n in range(50)]
    dataset_dicts[33]["annotations"] = [{"category_id": 2}, {"category_id": 1}]
    dataset_dicts[44]["annotations"] = [{"category_id": 3}]
    assert {dataset_dict["file_name"] for dataset_dict in choose(dataset_dicts, 2)} == {"33", "44"}
    assert len(choose(dataset_dicts, 30)) == 30
    assert len(choose(dataset_dicts, 300)) == 50
