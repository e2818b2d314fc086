"""Encoding of annotation files."""

from __future__ import annotations

from functools import partial

import pycocotools.coco


def read_annotations_as_utf8() -> None:
    """Make pycocotools, through which detectron2 reads annotation files, open them as UTF-8, the encoding of JSON.

    It opens them in the encoding of the locale, which is ASCII in the C locale and differs between languages on Windows.
    """
    pycocotools.coco.open = partial(open, encoding="utf-8")
