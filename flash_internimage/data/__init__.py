"""Datasets and their validation, augmentations, and data loaders that resume exactly."""

from .augmentations import (
    CropRange,
    ExactResizeTransform,
    FitWithin,
    OneOf,
    PhotometricDistortion,
    ResizeToFit,
    ScaleJitter,
)
from .categories import Categories
from .check import DatasetReport, check_dataset
from .combinations import CopyPaste, MixUp, Mosaic
from .custom import dataset_categories, literal_num_classes, require_num_classes, require_registered, use_custom_data
from .dataset_dicts import DatasetDicts, evaluation_dataset_dicts, training_dataset_dicts
from .encoding import read_annotations_as_utf8
from .loader import build_test_loader, build_train_loader
from .mapper import TestMapper, TrainingMapper
from .pipelines import AlbumentationsPipeline, TorchvisionPipeline
from .presets import use_augmentation_preset
from .registered import require_valid
from .shapes import make_shapes, register_shapes
from .stream import TrainingStream

register_shapes()

read_annotations_as_utf8()

__all__ = [
    "AlbumentationsPipeline",
    "Categories",
    "CopyPaste",
    "CropRange",
    "DatasetDicts",
    "DatasetReport",
    "ExactResizeTransform",
    "FitWithin",
    "MixUp",
    "Mosaic",
    "OneOf",
    "PhotometricDistortion",
    "ResizeToFit",
    "ScaleJitter",
    "TestMapper",
    "TorchvisionPipeline",
    "TrainingMapper",
    "TrainingStream",
    "build_test_loader",
    "build_train_loader",
    "check_dataset",
    "dataset_categories",
    "evaluation_dataset_dicts",
    "literal_num_classes",
    "make_shapes",
    "register_shapes",
    "require_num_classes",
    "require_registered",
    "require_valid",
    "training_dataset_dicts",
    "use_augmentation_preset",
    "use_custom_data",
]
