"""Serialized dataset dicts: values survive, files are mapped and checked, and no code is run from them."""

import os
import pickle

import numpy as np
import pytest
from detectron2.structures import BoxMode

from flash_internimage.data.serialized import SerializedDicts, load_plain, save_dicts

DICTS = [
    {
        "file_name": "a.jpg",
        "height": 60,
        "width": 80,
        "image_id": "first",
        "annotations": [
            {"bbox": [1, 2.5, 3, 4], "category_id": 0, "iscrowd": 1},
            {"bbox": [5, 6, 7, 8], "category_id": 1, "segmentation": [[1.1, 2, 3.3, 4, 5, 6]], "iscrowd": None},
        ],
    },
    {"file_name": "ä/b.jpg", "height": 30, "width": 20, "image_id": 2**40, "annotations": []},
]


def test_dataset_dicts_and_columns_survive(tmp_path):
    save_dicts(tmp_path, iter(DICTS))
    for serialized in (SerializedDicts.of(DICTS), SerializedDicts.open(tmp_path)):
        assert [serialized[i] for i in range(len(serialized))] == DICTS
        assert type(serialized[0]["annotations"][0]["bbox"][0]) is int
        assert serialized.sizes.tolist() == [[60, 80], [30, 20]]
        assert serialized.objects.tolist() == [0, 2, 2]
        assert serialized.boxes.tolist() == [[1, 2.5, 3, 4], [5, 6, 7, 8]]
        assert serialized.is_crowd.tolist() == [True, False]
        assert serialized.has_mask.tolist() == [False, True]


def test_boxes_are_columns_in_xywh():
    annotation = {"bbox": np.array([1, 2, 4, 8]), "bbox_mode": BoxMode.XYXY_ABS}
    assert SerializedDicts.of([{"height": 9, "width": 9, "annotations": [annotation]}]).boxes.tolist() == [[1, 2, 3, 6]]


def test_mapped_records_are_pickled_as_their_folder(tmp_path):
    save_dicts(tmp_path, DICTS * 1000)
    serialized = SerializedDicts.open(tmp_path)
    data = pickle.dumps(serialized)
    assert len(data) < 1000
    assert pickle.loads(data)[0] == DICTS[0]
    for file in tmp_path.iterdir():
        file.unlink()
    tmp_path.rmdir()
    assert pickle.loads(pickle.dumps(serialized))[1999] == DICTS[1]  # the mapped files still exist


def test_empty_list():
    serialized = SerializedDicts.of([])
    assert len(serialized) == 0
    assert serialized.sizes.shape == (0, 2)


@pytest.mark.parametrize("value", [os.system, BoxMode.XYWH_ABS, np.float64(1)], ids=["function", "enum", "numpy"])
def test_only_plain_values_are_unpickled(value):
    assert load_plain(memoryview(pickle.dumps({"a": [1, 2.5, "b", b"c", None, True, (2**70,)]}, 4)))["a"][5] is True
    with pytest.raises(pickle.UnpicklingError, match="expected plain values"):
        load_plain(memoryview(pickle.dumps(value, 4)))


def _truncate(folder, name, by=8):
    os.truncate(folder / name, os.path.getsize(folder / name) - by)


DAMAGES = {
    "truncated dataset dicts": lambda folder: _truncate(folder, "dicts.bin"),
    "truncated column": lambda folder: _truncate(folder, "boxes.npy"),
    "missing column": lambda folder: (folder / "ends.npy").unlink(),
    "columns of different lengths": lambda folder: np.save(folder / "is_crowd.npy", np.zeros(5, bool)),
    "another type": lambda folder: np.save(folder / "boxes.npy", np.zeros((2, 4), np.float32)),
    "another number of images": lambda folder: np.save(folder / "sizes.npy", np.zeros((3, 2), np.int64)),
    "descending ends": lambda folder: np.save(folder / "ends.npy", np.load(folder / "ends.npy")[[0, 2, 1]]),
    "pickled array": lambda folder: np.save(folder / "ends.npy", np.array([{}, None, 1], dtype=object)),
    "text": lambda folder: (folder / "objects.npy").write_text("no array"),
    "nothing": lambda folder: (folder / "dicts.bin").write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_files_are_refused(tmp_path, damage):
    save_dicts(tmp_path, DICTS)
    damage(tmp_path)
    with pytest.raises((OSError, ValueError, EOFError)):
        SerializedDicts.open(tmp_path)
