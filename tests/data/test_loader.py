"""Data loaders on real files: the samples depend neither on the number of loader processes nor on the start iteration."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data.transforms import RandomFlip

from flash_internimage.data import (
    CopyPaste,
    CropRange,
    MixUp,
    Mosaic,
    PhotometricDistortion,
    ResizeToFit,
    TestMapper,
    TrainingMapper,
    build_test_loader,
    build_train_loader,
    evaluation_dataset_dicts,
    training_dataset_dicts,
)
from flash_internimage.data.presets import multi_scale_crop
from flash_internimage.engine.stopping import StopRequest

pytestmark = pytest.mark.usefixtures("small_shapes")


def train_loader(num_workers=0, start_iteration=0, batch_size=3, sampler="TrainingSampler", threshold=0.001, **mapper):
    mapper = {"augmentations": [RandomFlip(), ResizeToFit([60, 70, 80], 120), CropRange(30, 60)], **mapper}
    return build_train_loader(
        training_dataset_dicts("small_shapes_train"),
        TrainingMapper(**mapper),
        total_batch_size=batch_size,
        num_workers=num_workers,
        seed=11,
        start_iteration=start_iteration,
        sampler=sampler,
        repeat_threshold=threshold,
    )


def take(loader, number):
    return list(itertools.islice(loader, number))


def assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for sample, other in zip(itertools.chain(*batches), itertools.chain(*expected), strict=True):
        assert sample["image_id"] == other["image_id"]
        assert sample["image"].equal(other["image"])
        assert sample["instances"].gt_boxes.tensor.equal(other["instances"].gt_boxes.tensor)
        assert sample["instances"].gt_classes.equal(other["instances"].gt_classes)
        assert sample["instances"].gt_masks.tensor.equal(other["instances"].gt_masks.tensor)


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("start", [0, 5])
def test_samples_do_not_depend_on_loader_processes_or_start(num_workers, start):
    expected = take(train_loader(), 12)[start:]
    assert_equal(take(train_loader(num_workers, start_iteration=start), 12 - start), expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_combined_images_do_not_depend_on_loader_processes_or_start(num_workers):
    combinations = [CopyPaste(prob=0.7), Mosaic(prob=0.7), MixUp(prob=0.7)]
    mapper = {"augmentations": [ResizeToFit([40], 60), PhotometricDistortion()], "combinations": combinations}
    expected = take(train_loader(**mapper), 5)
    assert len({len(sample["instances"]) for batch in expected for sample in batch}) > 3
    assert_equal(take(train_loader(num_workers, start_iteration=2, **mapper), 3), expected[2:])


@pytest.mark.parametrize("start", [0, 4])
def test_two_training_processes(monkeypatch, start):
    alone = take(train_loader(), 16)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        loader = train_loader(num_workers=2, start_iteration=start, batch_size=6)
        assert_equal(take(loader, 8 - start), alone[rank + 2 * start :: 2])


def test_starting_a_loader_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    next(iter(train_loader(num_workers=1)))
    next(iter(train_loader(num_workers=0)))
    assert torch.get_rng_state().equal(before)


def test_dataset_smaller_than_a_batch():
    images = len(training_dataset_dicts("small_shapes_train"))
    (batch,) = take(train_loader(batch_size=40), 1)
    assert images < len(batch) == 40


def test_crops_without_objects_are_redrawn():
    crop = [CropRange(20, 20)]
    kept = [len(s["instances"]) for s in itertools.chain(*take(train_loader(augmentations=crop), 30))]
    redrawn = train_loader(augmentations=crop, allow_empty=False)
    assert 0 in kept
    assert all(len(s["instances"]) for s in itertools.chain(*take(redrawn, 30)))


def test_published_augmentation_runs_end_to_end():
    mapper = {"augmentations": instantiate(multi_scale_crop(4200)), "with_masks": True, "allow_empty": False}
    for sample in itertools.chain(*take(train_loader(batch_size=2, **mapper), 2)):
        height, width = sample["image"].shape[1:]
        assert max(height, width) <= 1333
        assert 480 <= min(height, width) <= 800
        assert sample["instances"].gt_masks.tensor.shape[1:] == (height, width)


@pytest.mark.parametrize(("batch_size", "seed", "message"), [(3, 0, "multiple of the 2 processes, got 3"), (4, -1, "seed")])
def test_bad_arguments(monkeypatch, batch_size, seed, message):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=message):
        build_train_loader([{"width": 2, "height": 1}], TrainingMapper([]), batch_size, 0, seed)


def test_a_batch_of_no_images_in_one_process():
    with pytest.raises(ValueError, match="total_batch_size must be a whole number of 1 or more, got 0"):
        build_train_loader([{"width": 2, "height": 1}], TrainingMapper([]), 0, 0, 0)


REPEATED = {"sampler": "RepeatFactorTrainingSampler", "threshold": 1.0}


@pytest.mark.parametrize(("num_workers", "start"), [(2, 0), (0, 4), (2, 3)])
def test_repeated_images_do_not_depend_on_loader_processes_or_start(num_workers, start):
    expected = take(train_loader(**REPEATED), 9)
    plain = take(train_loader(), 9)
    assert [s["image_id"] for s in itertools.chain(*expected)] != [s["image_id"] for s in itertools.chain(*plain)]
    assert_equal(take(train_loader(num_workers, start, **REPEATED), 9 - start), expected[start:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sampler": "RepeatFactor"},
            "dataloader.train.sampler=RepeatFactor: expected TrainingSampler or Repeat",
        ),
        ({**REPEATED, "threshold": 2.0}, "dataloader.train.repeat_threshold=2.0: expected a fraction of the images above 0"),
    ],
)
def test_wrong_sampler_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        train_loader(**options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_test_loader_yields_every_image_once(num_workers):
    dataset_dicts = evaluation_dataset_dicts("small_shapes_val")
    batches = list(build_test_loader(dataset_dicts, TestMapper([ResizeToFit([64], 128)]), num_workers))
    assert [[s["image_id"] for s in batch] for batch in batches] == [[r["image_id"]] for r in dataset_dicts]


def _read_while_the_process_group_is_terminated() -> None:
    os.setpgid(0, 0)
    with StopRequest().listening() as stop:
        batches = iter(build_test_loader([{"number": n} for n in range(40)], mapper=dict, num_workers=2))
        started = [next(batches), next(batches)]  # one of each worker
        # From another process, as by a scheduler: PyTorch's handler tells the loader's own signals from others.
        program = f"import os, signal; os.killpg({os.getpid()}, signal.SIGTERM)"
        subprocess.run([sys.executable, "-c", program], check=True, start_new_session=True)
        rest = list(batches)  # ends with an exception if a worker has ended
    sys.exit(0 if len(started) + len(rest) == 40 and stop.signal == signal.SIGTERM else 3)


def test_workers_outlive_a_signal_to_the_process_group():
    process = multiprocessing.get_context("fork").Process(target=_read_while_the_process_group_is_terminated)
    process.start()
    process.join(60)
    process.kill()
    process.join()
    assert process.exitcode == 0
