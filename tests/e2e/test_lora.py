"""Training with LoRA adapters: exact resumption, and checkpoints of ordinary detectors."""

import re

import pytest
import torch
from detectron2.config import instantiate

from flash_internimage import model_zoo
from flash_internimage.checkpoint import Checkpointer
from tests.e2e.conftest import data_overrides, run_python
from tests.e2e.test_freezing import SHORT
from tests.e2e.test_resume import assert_same, load

# lora_B starts at zero, and a learning rate of 1e-3 would leave it there within float32.
LORA = ["train.lora.rank=4", "train.lora.alpha=8", "optimizer.lr=0.01"]
OTHERS = [
    "train.ema.enabled=true",
    "train.ema.warmup_iters=0",
    "train.ema.momentum=0.5",
    "train.clip_grad.max_norm=1",
    "train.accumulation_steps=2",
    "dataloader.train.total_batch_size=2",
    "optimizer.params.layer_decay=0.9",
]


@pytest.fixture(autouse=True)
def _peft():
    pytest.importorskip("peft")


def expected_weights(checkpoint, average):
    """The merged weights of the adapted layers, computed from the adapters in the checkpoint."""
    tensors = checkpoint["adapters"]["average" if average else "model"]
    return {
        f"{layer}.weight": checkpoint["adapters"]["model"][f"{layer}.weight"].double()
        + 2 * tensors[f"{layer}.lora_B"].double() @ tensors[f"{layer}.lora_A"].double()  # alpha / rank = 8 / 4
        for layer in (name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A"))
    }


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["train.amp.enabled=true", "train.lora.dropout=0.1"], id="mixed precision, dropout"),
        pytest.param(OTHERS, id="average, clipping, accumulation, layer decay"),
    ],
)
def test_run_is_resumed_exactly_and_leaves_an_ordinary_detector(train_net, own_data, nano_checkpoint, tmp_path, options):
    plain = [*SHORT, *data_overrides(own_data), f"train.init_checkpoint={nano_checkpoint}", f"train.output_dir={tmp_path}"]
    argv = [*plain, *LORA, *options]
    assert train_net(*argv).returncode == 0
    whole, before = load(tmp_path / "model_final.pth"), load(nano_checkpoint)["model"]
    assert list(whole["model"]) == list(before)
    weights = expected_weights(whole, average=False)
    assert len(weights) > 10
    for name, expected in weights.items():
        assert torch.equal(whole["model"][name], expected.float()), name
        assert torch.equal(whole["adapters"]["model"][name], before[name])
        assert not torch.equal(whole["model"][name], before[name])
    backbone = {name for name in before if name.startswith("backbone.bottom_up.")}
    assert {name for name in backbone if not torch.equal(whole["model"][name], before[name])} == weights.keys()
    assert any(not torch.equal(whole["model"][name], tensor) for name, tensor in before.items() if name not in backbone)
    if "ema" in whole:
        assert not any(name.endswith(".weight") for name in whole["adapters"]["average"])
        for name, expected in expected_weights(whole, average=True).items():
            assert torch.equal(whole["ema"][f"module.{name}"], expected.float())

    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    refused = train_net(*plain, "--resume")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "was saved with LoRA adapters of rank 4 and alpha 8, this run is configured without LoRA adapters" in refused.stderr
    assert train_net(*argv, "--resume").returncode == 0
    assert_same(load(tmp_path / "model_final.pth"), whole)

    model = instantiate(model_zoo.get_config("mask_rcnn_flash_internimage_nano").model)
    Checkpointer(model).load_complete(str(tmp_path / "model_final.pth"))
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_random_weights_are_not_adapted(train_net, own_data, tmp_path):
    done = train_net(*SHORT, *data_overrides(own_data), *LORA, f"train.output_dir={tmp_path}/run")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert re.search(
        r"train.lora: \d+ frozen tensors would keep random values \(backbone.*\), which train.init_checkpoint "
        r"\(empty\) does not have; start from the checkpoint of a trained detector\n",
        done.stderr,
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_train_the_same_adapters(own_data, nano_checkpoint, tmp_path):
    argv = [*SHORT, *data_overrides(own_data), f"train.init_checkpoint={nano_checkpoint}", *LORA, *OTHERS]
    argv += ["train.accumulation_steps=1", f"train.output_dir={tmp_path}", "--num-gpus=2"]
    done = run_python("train_net.py", *argv)
    assert done.returncode == 0, done.stderr
    whole = load(tmp_path / "model_final.pth")
    assert all(torch.equal(whole["model"][name], tensor.float()) for name, tensor in expected_weights(whole, False).items())
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    assert run_python("train_net.py", *argv, "--resume").returncode == 0
    assert_same(load(tmp_path / "model_final.pth"), whole)
