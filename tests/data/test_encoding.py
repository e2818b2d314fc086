"""Annotation files are UTF-8, whatever the locale."""

import json
import subprocess
import sys


def test_annotations_are_read_as_utf8_in_the_c_locale(write_dataset, repository):
    annotations, images = write_dataset(lambda content: content["categories"][0].update(name="é"))
    content = json.loads(annotations.read_text(encoding="utf-8"))
    annotations.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    code = (
        "import sys, flash_internimage.data; from detectron2.data import DatasetCatalog, MetadataCatalog; "
        "from detectron2.data.datasets import register_coco_instances; "
        "register_coco_instances('named', {}, *sys.argv[1:]); DatasetCatalog.get('named'); "
        "print(ascii(MetadataCatalog.get('named').thing_classes))"
    )
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code, annotations, images],
        cwd=repository,
        env=environment,
        capture_output=True,
        encoding="ascii",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'\\xe9'" in done.stdout
