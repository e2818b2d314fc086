"""Credentials and absolute paths in configs, which neither uploads nor experiment trackers may show."""

import pytest
from omegaconf import OmegaConf

from flash_internimage import model_zoo
from flash_internimage.engine.private_values import clear_texts, has_credentials, is_absolute_path
from flash_internimage.engine.writers import config_for_trackers


@pytest.mark.parametrize(
    ("text", "credentials", "absolute"),
    [
        ("https://me:secret@mlflow.example", True, False),
        ("postgresql+psycopg2://me@host/db", True, False),
        ("https://bucket.example/model.pth?signature=x", True, False),
        ("https://me:secret@[broken/model.pth", True, False),
        ("https://example.com/model.pth", False, False),
        ("hf://me/model@main/model.pth", False, False),
        ("/home/me/model.pth", False, True),
        ("~/model.pth", False, True),
        (r"C:\Users\me\model.pth", False, True),
        (r"\\server\share", False, True),
        ("file:///home/me", False, True),
        ("output/model.pth", False, False),
        ("${train.output_dir}/inference", False, False),
        ("detectron2.modeling.FPN", False, False),
        ("", False, False),
    ],
)
def test_what_is_private(text, credentials, absolute):
    assert (has_credentials(text), is_absolute_path(text)) == (credentials, absolute)


def test_texts_are_cleared_anywhere_and_interpolations_kept():
    cfg = OmegaConf.create({"a": [{"b": "/x"}, "/y", "z"], "c": "${a}", "d": "${missing}/e", "f": 1, "g": None, "h": "???"})
    clear_texts(cfg, is_absolute_path)
    assert OmegaConf.to_container(cfg, resolve=False) == {
        "a": [{"b": None}, None, "z"],
        "c": "${a}",
        "d": "${missing}/e",
        "f": 1,
        "g": None,
        "h": "???",
    }


def test_trackers_get_no_credentials():
    train = model_zoo.get_config("mask_rcnn_flash_internimage_nano").train
    train.mlflow.tracking_uri = "https://mlflow.example"
    train.init_checkpoint = "https://me:secret@example.com/model.pth"
    shown = config_for_trackers(train)["train"]
    assert "tracking_uri" not in shown["mlflow"]
    assert shown["init_checkpoint"] is None
    assert (shown["max_iter"], shown["output_dir"]) == (train.max_iter, train.output_dir)
    assert train.mlflow.tracking_uri == "https://mlflow.example"
    train.mlflow = None
    assert config_for_trackers(train)["train"]["mlflow"] is None
