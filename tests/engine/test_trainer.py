"""The training step, compared with the same computation written out."""

import copy

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook, PeriodicWriter
from detectron2.utils.events import EventStorage, JSONWriter

from flash_internimage.engine.experiment_writer import ExperimentWriter
from flash_internimage.engine.trainer import StepOptions, Trainer, amp_dtype, micro_batches, nan_message
from flash_internimage.errors import UserError
from tests.engine.tiny import TinyDetector, TinyTrainLoader, image

CPU = torch.device("cpu")


def make_trainer(model=None, average=None, lr=0.1, batch=4, **options):
    torch.manual_seed(0)
    model = model or TinyDetector(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return Trainer(model, TinyTrainLoader(batch), optimizer, StepOptions(**{"seed": 3, **options}), CPU, average)


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


class MeanDetector(torch.nn.Module):
    """A model whose loss is a mean over images without batch statistics, so that micro-batches add up to the batch."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 4)

    def forward(self, batched_inputs):
        features = torch.stack([inputs["image"].mean(dim=(1, 2)) for inputs in batched_inputs])
        targets = torch.stack([inputs["target"] for inputs in batched_inputs])
        return {"loss_box": ((self.head(features) - targets) ** 2).mean(), "loss_size": self.head(features).mean()}


def test_step_is_gradient_descent_on_the_sum_of_losses():
    trainer = make_trainer(MeanDetector())
    expected = copy.deepcopy(trainer.model)
    sum(expected([image(i) for i in range(4)]).values()).backward()
    trainer.train(0, 1)
    for parameter, before in zip(trainer.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter, before - 0.1 * before.grad)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_micro_batches_give_the_gradient_of_the_batch(parts):
    full, accumulated = make_trainer(MeanDetector()), make_trainer(MeanDetector(), accumulation_steps=parts)
    accumulated.model.load_state_dict(full.model.state_dict())
    for trainer in (full, accumulated):
        trainer.train(0, 3)
    torch.testing.assert_close(weights(accumulated), weights(full), rtol=1e-5, atol=1e-7)
    assert accumulated.storage.history("loss_box").latest() == pytest.approx(full.storage.history("loss_box").latest())


@pytest.mark.parametrize(("count", "sizes"), [(1, [5]), (2, [2, 3]), (3, [2, 1, 2]), (9, [1, 1, 1, 1, 1])])
def test_micro_batches_keep_all_images_in_order(count, sizes):
    parts = micro_batches(list(range(5)), count)
    assert [len(part) for part in parts] == sizes
    assert [image for part in parts for image in part] == list(range(5))


def test_clipping_limits_the_norm_over_all_parameters():
    trainer = make_trainer(MeanDetector(), lr=1.0, max_grad_norm=0.01)
    before = weights(trainer)
    trainer.train(0, 1)
    assert (weights(trainer) - before).norm().item() == pytest.approx(0.01, rel=1e-4)
    assert trainer.storage.history("grad_norm").latest() > 0.01


def test_forward_pass_runs_in_bfloat16():
    seen = []

    class Spy(MeanDetector):
        def forward(self, batched_inputs):
            seen.append(self.head(torch.zeros(1, 3)).dtype)
            return super().forward(batched_inputs)

    trainer = make_trainer(Spy(), amp_dtype=torch.bfloat16)
    trainer.train(0, 1)
    assert seen == [torch.bfloat16]
    assert weights(trainer).dtype == torch.float32
    assert not trainer.grad_scaler.is_enabled()


def test_amp_dtype_by_name():
    assert amp_dtype(False, "bf16", CPU) is None
    assert amp_dtype(True, "bf16", CPU) is torch.bfloat16
    assert amp_dtype(True, "fp16", torch.device("cuda")) is torch.float16
    with pytest.raises(ValueError, match="fp16: half precision needs a GPU"):
        amp_dtype(True, "fp16", CPU)
    with pytest.raises(ValueError, match="train.amp.dtype=int8: expected bf16 or fp16"):
        amp_dtype(False, "int8", CPU)


def test_average_is_updated_after_every_step():
    class Average:
        steps = 0

        def update_parameters(self, model):
            assert model is trainer.model
            self.steps += 1

    average = Average()
    trainer = make_trainer(average=average)
    trainer.train(0, 3)
    assert average.steps == 3


def test_random_numbers_of_a_step_depend_on_the_iteration_alone():
    uninterrupted = make_trainer(TinyDetector(dropout=0.5))
    first = make_trainer(TinyDetector(dropout=0.5))
    first.model.load_state_dict(uninterrupted.model.state_dict())
    uninterrupted.train(0, 6)
    first.train(0, 3)
    torch.rand(17)  # random numbers drawn between two runs have no effect
    second = make_trainer(first.model)
    second.data_loader = TinyTrainLoader(4, start_iteration=3)
    second = Trainer(first.model, second.data_loader, first.optimizer, first.options, CPU)
    second.train(3, 6)
    assert torch.equal(weights(second), weights(uninterrupted))


def test_error_for_nan_names_loss_iteration_and_images():
    trainer = make_trainer(TinyDetector(bad_iteration=1))
    with pytest.raises(UserError) as info:
        trainer.train(0, 4)
    message = str(info.value)
    assert message.startswith("loss not finite: loss_box is nan at iteration 1, on the images images/000004.png, images/000005")
    assert "(the other losses: loss_cls 1." in message


def test_nan_loss_does_not_change_the_weights():
    trainer = make_trainer(TinyDetector(bad_iteration=0))
    before = weights(trainer)
    with pytest.raises(UserError):
        trainer.train(0, 1)
    assert torch.equal(weights(trainer), before)


def test_error_for_nan_found_by_the_model_names_the_images():
    class Raises(MeanDetector):
        def forward(self, batched_inputs):
            raise FloatingPointError("Predicted boxes contain NaN.")

    with pytest.raises(UserError, match=r"contain NaN. \(at iteration 0, on the images images/000000.png"):
        make_trainer(Raises()).train(0, 1)


def test_infinite_gradient_of_a_finite_loss_is_an_error():
    class Steep(MeanDetector):
        def forward(self, batched_inputs):
            losses = super().forward(batched_inputs)
            return {"loss": losses["loss_box"] + (self.head.bias * 0).abs().sqrt().sum()}

    with pytest.raises(UserError, match="gradient norm is nan at iteration 0, on the images"):
        make_trainer(Steep(), max_grad_norm=1.0).train(0, 1)


def test_nan_message_lists_every_loss_that_is_not_finite():
    message = nan_message({"a": float("inf"), "b": 1.0, "c": float("nan")}, 7, "x.jpg", rank=0)
    assert message.startswith("loss not finite: a is inf, c is nan at iteration 7, on the images x.jpg (the other losses: b 1)")


def test_failed_last_step_is_not_evaluated_but_metrics_are_written(tmp_path):
    evaluated, finished = [], []

    class Finished(HookBase):
        def after_train(self):
            finished.append(self.trainer.iter)

    def hooks():
        writers = PeriodicWriter([JSONWriter(str(tmp_path / "metrics.json"))], period=100)
        return [EvalHook(0, lambda: evaluated.append(1)), Finished(), writers]

    trainer = make_trainer(TinyDetector(bad_iteration=2))
    trainer.register_hooks(hooks())
    with pytest.raises(UserError):
        trainer.train(0, 3)
    assert (evaluated, finished) == ([], [])
    assert '"loss_box"' in (tmp_path / "metrics.json").read_text()

    trainer = make_trainer()
    trainer.register_hooks(hooks())
    trainer.train(0, 3)
    assert (evaluated, finished) == ([1], [3])


def test_experiment_trackers_learn_how_the_run_ended():
    ends = []

    class Recorder(ExperimentWriter):
        def log(self, iteration, scalars, images):
            pass

        def end(self, error):
            ends.append(error)

    trainer = make_trainer()
    trainer.register_hooks([PeriodicWriter([Recorder()])])
    trainer.train(0, 1)
    assert ends == [None]
    trainer = make_trainer(TinyDetector(bad_iteration=0))
    trainer.register_hooks([PeriodicWriter([Recorder()])])
    with pytest.raises(UserError) as raised:
        trainer.train(0, 1)
    assert ends[1:] == [raised.value]


def test_state_includes_the_optimizer_and_the_grad_scaler():
    trainer = make_trainer()
    trainer.train(0, 2)
    state = trainer.state_dict()
    assert {"iteration", "optimizer", "grad_scaler"} <= set(state)
    other = make_trainer()
    other.load_state_dict(state)
    assert other.iter == trainer.iter


def test_logged_losses_are_those_of_the_model():
    trainer = make_trainer(MeanDetector())
    expected = {name: loss.item() for name, loss in trainer.model([image(i) for i in range(4)]).items()}
    with EventStorage():
        trainer.train(0, 1)
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert latest["loss_box"] == pytest.approx(expected["loss_box"])
    assert latest["total_loss"] == pytest.approx(sum(expected.values()))
    assert latest["data_time"] >= 0
