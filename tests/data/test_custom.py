"""Custom datasets from the command line: what they change in a config, and what is refused."""

import copy

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from flash_internimage.data import dataset_categories, require_num_classes, training_dataset_dicts, use_custom_data
from flash_internimage.data.custom import TEST_NAME, TRAIN_NAME, literal_num_classes


@pytest.fixture(autouse=True)
def _unregister():
    yield
    for name in (TRAIN_NAME, TEST_NAME):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def cfg():
    half = {"json": None, "images": None}
    return OmegaConf.create(
        {
            "model": {
                "num_classes": 80,
                "roi_heads": {"num_classes": "${..num_classes}", "predictors": [{"num_classes": 80}, {"num_classes": None}]},
                "backbone": {"depth": 3},
            },
            "dataloader": {
                "train": {"dataset": {"names": "coco_2017_train"}},
                "test": {"dataset": {"names": "coco_2017_val"}},
                "evaluator": {"dataset_name": "${..test.dataset.names}"},
            },
            "data": {"train": half, "test": copy.deepcopy(half)},
        }
    )


def give(cfg, split, files):
    cfg.data[split].json, cfg.data[split].images = (str(path) for path in files)


def test_nothing_given_changes_nothing(cfg):
    before = copy.deepcopy(cfg)
    assert use_custom_data(cfg) is None
    assert cfg == before


def test_points_the_config_at_the_data(cfg, write_dataset):
    give(cfg, "train", write_dataset(name="train data"))
    give(cfg, "test", write_dataset(name="test data"))
    assert use_custom_data(cfg).names == ["spoon", "mug"]  # in ascending order of ids 7 and 42
    assert cfg.dataloader.train.dataset.names == TRAIN_NAME
    assert cfg.dataloader.test.dataset.names == TEST_NAME
    assert cfg.dataloader.evaluator.dataset_name == TEST_NAME
    assert cfg.model.num_classes == 2
    assert cfg.model.roi_heads.num_classes == 2
    assert OmegaConf.is_interpolation(cfg.model.roi_heads, "num_classes")
    assert cfg.model.roi_heads.predictors[0].num_classes == 2
    assert cfg.model.roi_heads.predictors[1].num_classes is None
    dataset_dicts = training_dataset_dicts(TRAIN_NAME, with_masks=True)
    assert [r["annotations"][0]["category_id"] for r in dataset_dicts] == [1, 0]
    assert dataset_categories(TEST_NAME) == {7: "spoon", 42: "mug"}
    require_num_classes(cfg, TRAIN_NAME)


def test_evaluation_needs_test_data_only(cfg, write_dataset):
    give(cfg, "test", write_dataset())
    assert use_custom_data(cfg).names == ["spoon", "mug"]
    assert cfg.dataloader.train.dataset.names == "coco_2017_train"
    assert cfg.dataloader.test.dataset.names == TEST_NAME


def test_a_second_config_replaces_the_first(cfg, write_dataset):
    other = copy.deepcopy(cfg)
    give(cfg, "test", write_dataset(name="one"))
    use_custom_data(cfg)
    DatasetCatalog.get(TEST_NAME)  # fixes names of classes, which a new dataset must not inherit
    give(other, "test", write_dataset(lambda c: c["categories"].append({"id": 1, "name": "fork"}), name="two"))
    assert use_custom_data(other).names == ["fork", "spoon", "mug"]
    DatasetCatalog.get(TEST_NAME)
    assert dataset_categories(TEST_NAME).names == ["fork", "spoon", "mug"]


def test_training_without_test_data(cfg, write_dataset):
    give(cfg, "train", write_dataset())
    with pytest.raises(ValueError, match="data.train is given, but data.test is not"):
        use_custom_data(cfg)


@pytest.mark.parametrize(("missing", "present"), [("json", "images"), ("images", "json")])
def test_half_of_the_data(cfg, write_dataset, missing, present):
    give(cfg, "train", write_dataset())
    cfg.data.train[missing] = None
    with pytest.raises(ValueError, match=rf"data.train.{present} is given, but data.train.{missing} is not"):
        use_custom_data(cfg)


def test_categories_must_agree(cfg, write_dataset):
    give(cfg, "train", write_dataset(name="a"))
    give(cfg, "test", write_dataset(lambda c: c["categories"][0].update(name="cup"), name="b"))
    with pytest.raises(ValueError, match=r"category 42 is 'mug' in .*a/annotations.json and 'cup' in .*b/annotations.json"):
        use_custom_data(cfg)
    give(cfg, "test", write_dataset(lambda c: c["categories"].append({"id": 1, "name": "fork"}), name="c"))
    with pytest.raises(ValueError, match=r"category 1 is 'absent' in .*a/annotations.json and 'fork' in"):
        use_custom_data(cfg)


def test_damaged_data_is_refused_and_changes_nothing(cfg, write_dataset):
    give(cfg, "train", write_dataset(name="a"))
    give(cfg, "test", write_dataset(lambda c: c["images"][0].update(file_name="gone.jpg"), name="b"))
    before = copy.deepcopy(cfg)
    with pytest.raises(ValueError, match="gone.jpg, referenced by image 10"):
        use_custom_data(cfg)
    assert cfg == before
    assert TRAIN_NAME not in DatasetCatalog.list()


def test_only_literal_numbers_are_found(cfg):
    found = list(literal_num_classes(cfg.model))
    assert len(found) == 2
    assert all(node.num_classes == 80 for node in found)


def test_number_of_classes_must_fit_the_data(cfg, small_shapes):
    with pytest.raises(ValueError, match=r"80 classes, but dataset small_shapes_val has 4 \(circle, triangle, square, star\)"):
        require_num_classes(cfg, "small_shapes_val")


def test_dataset_without_names_is_not_compared(cfg):
    DatasetCatalog.register("nameless", list)
    try:
        assert dataset_categories("nameless") is None
        require_num_classes(cfg, "nameless")
    finally:
        DatasetCatalog.remove("nameless")
        MetadataCatalog.remove("nameless")


def test_unknown_dataset_names_the_nearest():
    with pytest.raises(ValueError, match="dataset 'coco_2017_vall' is not known; did you mean coco_2017_val"):
        dataset_categories("coco_2017_vall")
    with pytest.raises(ValueError, match="dataset 'mine' is not known; give your own data by its annotation file"):
        dataset_categories("mine")


def test_categories_of_coco_need_no_files():
    categories = dataset_categories("coco_2017_val")
    assert (len(categories), categories[1], categories[90]) == (80, "person", "toothbrush")
