"""Annotation files are read once and cached: the same dataset dicts, reports and samples with and without the cache."""

import ast
import errno
import json
import logging
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances

import flash_internimage
from flash_internimage.data import annotation_cache, annotations, check_dataset, evaluation_dataset_dicts
from flash_internimage.data.annotations import check_dataset_once, read_annotations
from flash_internimage.data.registered import loads_coco_json

NAME = "cached"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of a cache in which files of all sizes are cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(annotations, "MIN_CACHED", 0)
    forget()
    yield annotation_cache.cache_folder()
    forget()


def forget() -> None:
    """Do as a new process does."""
    annotations._read.cache_clear()
    annotations._checked.cache_clear()


@pytest.fixture
def reads(monkeypatch):
    """The annotation files that are parsed."""
    found = []
    read = annotations.read_and_validate
    monkeypatch.setattr(annotations, "read_and_validate", lambda path: found.append(path) or read(path))
    return found


def entries(folder) -> list:
    return [entry for entry in folder.iterdir() if entry.is_dir()]


def varied(content: dict) -> None:
    """Give a dataset everything that an annotation file may contain."""
    image, annotation = content["images"][0], content["annotations"][0]
    rle = {"size": [60, 80], "counts": [100, 50, 4650]}
    content["images"] = [{"id": 30, "file_name": "2.jpg", "height": 60, "width": 80}, *reversed(content["images"])]
    content["images"].append({**image, "id": 5, "height": 20})
    content["annotations"] += [
        {**annotation, "id": 3, "segmentation": rle},
        {**annotation, "id": 4, "segmentation": {"size": [60, 80], "counts": "T3b1bA1"}, "iscrowd": 1},
        {**annotation, "id": 5, "bbox": [5, 5, 0.5, 3], "segmentation": []},
        {**annotation, "id": 6, "segmentation": [[1, 2, 3, 4], [5, 5, 25, 5, 25, 35.25]], "keypoints": [5, 6, 2, 7, 8, 0]},
        {**annotation, "id": 7, "segmentation": [[1, 2, 3, 4]]},
        {**annotation, "id": 8, "image_id": 99},
        {**annotation, "id": 9, "iscrowd": None, "keypoints": []},
    ]
    del content["annotations"][-1]["segmentation"]
    content["annotations"][3]["segmentation"]["counts"] = mask_util.frPyObjects(rle, 60, 80)["counts"].decode()


@pytest.fixture
def dataset(write_dataset):
    file, images = write_dataset(varied)
    register_coco_instances(NAME, {}, str(file), str(images))
    yield str(file), str(images)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def as_text(dataset_dicts) -> list[dict]:
    """Dataset dicts with the counts of all masks as text."""
    found = []
    for dataset_dict in dataset_dicts:
        objects = [dict(annotation) for annotation in dataset_dict["annotations"]]
        for annotation in objects:
            mask = annotation.get("segmentation")
            if isinstance(mask, dict) and isinstance(mask["counts"], bytes):
                annotation["segmentation"] = {**mask, "counts": mask["counts"].decode()}
        found.append({**dataset_dict, "annotations": objects})
    return found


@pytest.mark.parametrize("times", [0, 1, 2], ids=["in memory", "written to the cache", "read from the cache"])
def test_dataset_dicts_are_those_of_detectron2(cache, dataset, monkeypatch, times):
    expected = load_coco_json(*dataset, "expected")
    names = MetadataCatalog.get("expected").thing_classes
    MetadataCatalog.remove("expected")
    if not times:
        monkeypatch.setattr(annotations, "MIN_CACHED", 2**40)
    for _ in range(times):
        forget()
        found = evaluation_dataset_dicts(NAME)
    found = list(evaluation_dataset_dicts(NAME))
    assert as_text(found) == [{**d, "annotation_file": dataset[0]} for d in as_text(expected)]
    assert len(entries(cache)) == 1 if times else not cache.exists()
    assert MetadataCatalog.get(NAME).thing_classes == names
    assert MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id == {7: 0, 42: 1}


def test_report_is_the_same_with_and_without_the_cache(cache, dataset, reads):
    expected = check_dataset(*dataset)
    assert len(expected.warnings) >= 5
    assert check_dataset_once(*dataset) == expected
    forget()
    assert check_dataset_once(*dataset) == expected
    assert reads == [dataset[0]]
    os.remove(os.path.join(dataset[1], "1.jpg"))  # the images are looked for at each start
    forget()
    assert check_dataset_once(*dataset) == check_dataset(*dataset)
    assert "1 image file is missing" in check_dataset_once(*dataset).errors[0]
    assert reads == [dataset[0]]


def test_untrainable_dataset_and_other_path(cache, write_dataset, reads):
    content = lambda c: [a.update(iscrowd=1) for a in c["annotations"]]  # noqa: E731
    first, second = write_dataset(content, "first"), write_dataset(content, "second")
    for file, images in (first, second):
        report = check_dataset_once(str(file), str(images))
        assert report == check_dataset(file, images)
        assert report.untrainable.startswith(f"annotation file {file}: all 2 annotations are crowd regions")
    assert len(reads) == len(entries(cache)) == 1  # both have the same content


def test_file_with_errors_is_not_cached(cache, write_dataset, reads):
    file, images = write_dataset(lambda c: c["annotations"][0].update(category_id=1))
    for _ in range(2):
        forget()
        assert check_dataset_once(str(file), str(images)) == check_dataset(file, images)
    assert len(reads) == 2
    assert entries(cache) == []


def test_changed_content_is_read_even_if_size_and_time_are_the_same(cache, dataset, reads):
    read_annotations(dataset[0])
    status = os.stat(dataset[0])
    Path(dataset[0]).write_text(Path(dataset[0]).read_text().replace("mug", "cup"))
    os.utime(dataset[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    forget()
    assert read_annotations(dataset[0]).report.categories.names == ["spoon", "cup"]
    assert len(reads) == 2


def test_setting_that_changes_the_check_is_part_of_the_key(cache, write_dataset, monkeypatch):
    monkeypatch.setenv("FLASH_INTERNIMAGE_IMAGES_ANYWHERE", "1")
    file, _ = write_dataset(lambda c: c["images"][0].update(file_name="../images/1.jpg"))
    assert read_annotations(str(file)).report.errors == []
    monkeypatch.delenv("FLASH_INTERNIMAGE_IMAGES_ANYWHERE")
    assert "leads out of the image folder" in read_annotations(str(file)).report.errors[0]


def test_another_version_of_the_code_reads_the_file_again(cache, dataset, reads, monkeypatch):
    read_annotations(dataset[0])
    forget()
    monkeypatch.setattr(annotation_cache, "_digest_of_rules", lambda: b"other")
    read_annotations(dataset[0])
    assert len(reads) == len(entries(cache)) == 2


def test_key_depends_on_all_modules_that_determine_an_entry():
    """The modules that ``annotations`` imports, directly or indirectly, except for those without influence on an entry."""
    without_influence = {"errors", "locks", "path_manager"}
    found, queue = set(), [Path(annotations.__file__)]
    package = Path(flash_internimage.__file__).parent
    while queue:
        file = queue.pop()
        if file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.level or node.module.startswith("flash_internimage")):
                continue
            folder = file.parent if node.level else package
            module = (node.module or "").removeprefix("flash_internimage").removeprefix(".")
            names = [module] if module else [alias.name for alias in node.names]
            queue += [folder / f"{name}.py" for name in names if name not in without_influence]
    assert found <= set(annotation_cache._RULES)
    assert Path(mask_util._mask.__file__) in annotation_cache._RULES  # validates compressed masks


DAMAGES = {
    "text": b"{",
    "another object": b'{"a": {}}',
    "a list": b"[]",
    "zip archive": b"PK\x03\x04",
    "header of an array": b"\x93NUMPY\x01\x00\x10\x00{'descr': ((((((\n",
    "nothing": b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["dicts.bin", "report.json", "ids.json", "ends.npy"])
def test_damaged_entry_is_written_again(cache, dataset, reads, name, damage, caplog):
    expected = check_dataset_once(*dataset)
    (entry,) = entries(cache)
    (entry / name).write_bytes(DAMAGES[damage])
    forget()
    with caplog.at_level(logging.WARNING):
        assert check_dataset_once(*dataset) == expected
    assert f"{entry} is damaged" in caplog.text
    forget()
    assert check_dataset_once(*dataset) == expected
    assert len(reads) == 2


def test_incomplete_entry_is_written_again(cache, dataset, reads):
    read_annotations(dataset[0])
    (entry,) = entries(cache)
    files = list(entry.iterdir())
    for number, file in enumerate(files):
        file.unlink()
        forget()
        assert check_dataset_once(*dataset) == check_dataset(*dataset)
        assert len(reads) == 2 + number


def test_entry_that_is_deleted_while_it_is_used(cache, dataset):
    found = read_annotations(dataset[0])
    expected = found.ids()
    shutil.rmtree(cache)
    assert found.ids() == expected


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM], ids=errno.errorcode.get)
def test_entry_is_kept_when_a_process_has_no_resources_to_read_it(cache, dataset, monkeypatch, caplog, number):
    expected = check_dataset_once(*dataset)
    (entry,) = entries(cache)
    forget()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(annotation_cache.SerializedDicts, "open", _fail(number))
        patch.setattr(annotation_cache, "write_entry", None)
        assert check_dataset_once(*dataset) == expected
    assert f"cannot be cached: [Errno {number}]" in caplog.text
    assert entries(cache) == [entry]
    assert "damaged" not in caplog.text


def _fail(number: int):
    def call(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return call


def _block_with_a_file(cache, monkeypatch):
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file in the place of the folder")


def _let_others_write(cache, monkeypatch):
    cache.mkdir(mode=0o700, parents=True)
    cache.chmod(0o777)


def _let_others_write_to_the_parent(cache, monkeypatch):
    cache.mkdir(mode=0o700, parents=True)
    cache.parent.chmod(0o777)


def _link(cache, monkeypatch):
    cache.parent.mkdir(mode=0o700, parents=True)
    (cache.parent.parent.parent / "target").mkdir(mode=0o700)
    cache.symlink_to("../../target")


def _touch_when_read(cache, monkeypatch):
    read = annotations.read_and_validate
    monkeypatch.setattr(annotations, "read_and_validate", lambda path: os.utime(path) or read(path))


OBSTACLES = {
    "no folder can be made": _block_with_a_file,
    "others can write": _let_others_write,
    "others can write to the parent": _let_others_write_to_the_parent,
    "symbolic link": _link,
    "full disk": lambda cache, monkeypatch: monkeypatch.setattr(annotation_cache, "save_dicts", _fail(errno.ENOSPC)),
    "read-only": lambda cache, monkeypatch: monkeypatch.setattr(annotation_cache, "FileLock", _fail(errno.EROFS)),
    "file that changes": _touch_when_read,
}


@pytest.mark.parametrize("obstruct", OBSTACLES.values(), ids=OBSTACLES.keys())
def test_without_a_cache_the_contents_are_kept_in_memory(cache, dataset, monkeypatch, caplog, obstruct):
    expected = list(evaluation_dataset_dicts(NAME))
    forget()
    if cache.exists():
        for entry in entries(cache):
            for file in entry.iterdir():
                file.unlink()
            entry.rmdir()
        cache.rmdir()
        cache.parent.rmdir()
        cache.parent.parent.rmdir()
    obstruct(cache, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert list(evaluation_dataset_dicts(NAME)) == expected
    assert "is kept in the memory of each process, since it cannot be cached" in caplog.text
    assert not cache.is_dir() or entries(cache) == []  # nothing half-written


def _without_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # a user id without an account


@pytest.mark.parametrize(
    "change",
    [_without_home, lambda monkeypatch: monkeypatch.setenv("XDG_CACHE_HOME", "relative")],
    ids=["no home folder", "relative path"],
)
def test_no_cache_in_the_working_directory(cache, dataset, monkeypatch, tmp_path, caplog, change):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    change(monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert len(read_annotations(dataset[0]).serialized) == 4
    assert "cannot be cached: expected an absolute path for the cache" in caplog.text
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("exists", [False, True], ids=["created", "made private"])
def test_folder_is_private(cache, dataset, exists):
    if exists:
        cache.mkdir(parents=True)
        for folder in (cache, cache.parent):
            folder.chmod(0o755)
    read_annotations(dataset[0])
    assert len(entries(cache)) == 1
    assert [folder.stat().st_mode & 0o777 for folder in (cache, cache.parent)] == [0o700] * 2


def test_unused_entries_and_drafts_of_killed_processes_are_deleted(cache, dataset):
    read_annotations(dataset[0])
    (entry,) = entries(cache)
    old = time.time() - 40 * 24 * 3600
    for name in ("0123456789" * 4, f".unfinished-{'0' * 40}-x"):
        (cache / name).mkdir()
        os.utime(cache / name, (old, old))
    (cache / f".unfinished-{entry.name}-x").mkdir()
    for file in entry.iterdir():
        file.unlink()
    entry.rmdir()
    forget()
    read_annotations(dataset[0])
    assert entries(cache) == [entry]
    os.utime(entry, (old, old))
    forget()
    read_annotations(dataset[0])
    assert entry.stat().st_mtime > old  # an entry that is used stays


def test_other_folders_in_the_cache_are_not_deleted(cache, dataset):
    (cache / "photos").mkdir(parents=True)
    old = time.time() - 40 * 24 * 3600
    os.utime(cache / "photos", (old, old))
    read_annotations(dataset[0])
    assert (cache / "photos").is_dir()


def _read_in_process(file: str, queue) -> None:
    read = annotations.read_and_validate

    def read_slowly(path: str) -> tuple:
        queue.put("read")
        time.sleep(0.5)
        return read(path)

    annotations.read_and_validate = read_slowly
    queue.put(len(read_annotations(file).serialized))


def test_one_of_several_processes_reads_the_file(cache, dataset):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_read_in_process, args=(dataset[0], queue)) for _ in range(3)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=60) for _ in range(4)]
    for process in processes:
        process.join(60)
    assert sorted(map(str, answers)) == ["4", "4", "4", "read"]


def test_functions_of_others_are_called(dataset):
    assert loads_coco_json(DatasetCatalog[NAME])
    assert loads_coco_json(DatasetCatalog["coco_2017_val"])
    assert loads_coco_json(DatasetCatalog["shapes_train"])
    assert not loads_coco_json(DatasetCatalog["lvis_v1_val"])
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: [{**d, "extra": (1, 2)} for d in load_coco_json(*dataset, NAME)])
    assert [d["extra"] for d in evaluation_dataset_dicts(NAME)] == [(1, 2)] * 4
    assert evaluation_dataset_dicts(NAME)[0]["annotation_file"] == dataset[0]


def test_report_json_has_all_that_a_report_has(dataset):
    report = read_annotations(dataset[0]).report
    saved = json.loads(json.dumps(annotations._report_to_json(report)))
    assert annotations._report_from_json(saved, dataset[0]) == report
