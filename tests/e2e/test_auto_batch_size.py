"""Training with ``dataloader.train.total_batch_size=auto``, with a simulated GPU memory."""

import contextlib

import pytest
import torch
from detectron2.config import LazyConfig

from flash_internimage.engine import auto_batch_size, run
from tests.e2e.test_resume import CONFIG, load
from tests.engine.tiny import TinyDetector

ARGV = ["--config-file", CONFIG, "dataloader.train.total_batch_size=auto"]


@pytest.fixture
def limited_memory(monkeypatch):
    """Let the CPU pass for a GPU; the function sets the number of images that its memory can hold."""
    for module in (auto_batch_size, run):
        monkeypatch.setattr(module, "require_gpu", lambda device: None)
    monkeypatch.setattr(auto_batch_size, "_memory_limited", lambda *_: contextlib.nullcontext())
    forward = TinyDetector.forward

    def limit(images):
        def limited(self, batch):
            if len(batch) > images:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(self, batch)

        monkeypatch.setattr(TinyDetector, "forward", limited)

    return limit


def recipe(folder):
    cfg = LazyConfig.load(str(folder / "config.yaml"))
    return cfg.dataloader.train.total_batch_size, cfg.train.reference_batch_size, cfg.optimizer.lr, cfg.train.max_iter


def test_largest_batch_is_used_and_kept_on_resume(train_net, limited_memory, tmp_path):
    limited_memory(2)
    argv = [*ARGV, f"train.output_dir={tmp_path}"]
    done = train_net(*argv)
    assert done.returncode == 0, done.stderr
    assert "total_batch_size=auto: images per GPU and peak memory: 1: " in done.stdout
    assert "GiB, 4: out of memory, 3: out of memory" in done.stdout
    assert "total_batch_size=auto: 2 images\n" in done.stdout
    # Half the learning rate and twice the iterations of the recipe, which has 4 images.
    assert recipe(tmp_path) == (2, 2, 0.005, 16)
    whole = load(tmp_path / "model_final.pth")
    assert whole["iteration"] == 15

    limited_memory(100)
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth")
    resumed = train_net(*argv, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "total_batch_size=auto: 2, as before the resume" in resumed.stdout
    assert recipe(tmp_path) == (2, 2, 0.005, 16)
    again = load(tmp_path / "model_final.pth")
    assert all(torch.equal(tensor, whole["model"][name]) for name, tensor in again["model"].items())

    # With fewer images per step, its iterations would count other images.
    for override, now in (("dataloader.train.total_batch_size=1", "1, and"), ("dataloader.train.total_batch_size=2", "2, and")):
        refused = train_net("--config-file", CONFIG, override, f"train.output_dir={tmp_path}", "--resume")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "was trained with 2 images per step, and learning rate and schedule for 2; this" in refused.stderr
        assert f"this run is configured with {now}" in refused.stderr
    less_memory = train_net(*argv, "--resume", "train.accumulation_steps=2")
    assert less_memory.returncode == 0, less_memory.stderr


def test_search_changes_nothing_but_the_batch_size(train_net, limited_memory, tmp_path):
    limited_memory(2)
    assert train_net(*ARGV, f"train.output_dir={tmp_path}/auto").returncode == 0
    given = ["dataloader.train.total_batch_size=2", "train.scale_to_batch_size=true", f"train.output_dir={tmp_path}/given"]
    assert train_net("--config-file", CONFIG, *given).returncode == 0
    found, expected = (load(tmp_path / name / "model_final.pth")["model"] for name in ("auto", "given"))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_not_even_one_image_fits(train_net, limited_memory, tmp_path):
    limited_memory(0)
    done = train_net(*ARGV, f"train.output_dir={tmp_path}/run")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "total_batch_size=auto: not even one image fits into the memory of a GPU; set train.amp.enabled=true" in done.stderr
    assert not (tmp_path / "run").exists()


def test_cpu_is_refused(train_net, tmp_path):
    done = train_net(*ARGV, "train.device=cpu", f"train.output_dir={tmp_path}/run")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "auto: searches the largest batch that fits into the memory of a GPU, but this run is on the cpu; set" in done.stderr
    assert not (tmp_path / "run").exists()
    misspelled = train_net("--config-file", CONFIG, "dataloader.train.total_batch_size=atuo")
    assert "expected a value like 4 (an integer), or auto, got 'atuo' (a string)" in misspelled.stderr
