"""Time and memory are those that a model takes."""

import time

import torch

from flash_internimage.analysis import speed
from flash_internimage.analysis.parts import sum_by_part
from flash_internimage.compilation import compile_parts
from tests.analysis.timed import Part


def test_time_is_told_by_part(pyramid_model, monkeypatch):
    monkeypatch.setattr(speed, "now", lambda device: Part.clock)
    with speed.timed_modules(pyramid_model, torch.device("cpu")) as seconds:
        pyramid_model()
        pyramid_model()
    pyramid_model()  # after the measurement
    parts = {"": 330, "backbone": 80, "neck": 40, "proposals": 60, "heads": 130, "rest": 20}
    assert sum_by_part(pyramid_model, seconds) == parts


def test_with_one_thread_other_programs_do_not_count():
    threads = torch.get_num_threads()
    try:
        for count, waiting_counts in ((1, False), (2, True)):
            torch.set_num_threads(count)
            start = speed.now(torch.device("cpu"))
            time.sleep(0.2)
            assert (speed.now(torch.device("cpu")) - start >= 0.2) == waiting_counts
    finally:
        torch.set_num_threads(threads)


def test_compiled_parts_compute_the_same(nano, monkeypatch):
    image = [{"image": torch.rand(3, 64, 96) * 255}]
    with torch.inference_mode():
        before = nano(image)[0]["instances"].scores
    compiled = []

    def compile_quickly(function):
        compiled.append(function.__self__)
        return compile_(function, backend="aot_eager")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", compile_quickly)
    monkeypatch.setattr(nano.backbone.bottom_up, "forward", nano.backbone.bottom_up.forward)  # to be undone
    compile_parts(nano)
    assert compiled == [nano.backbone.bottom_up]
    with torch.inference_mode():
        torch.testing.assert_close(nano(image)[0]["instances"].scores, before)
