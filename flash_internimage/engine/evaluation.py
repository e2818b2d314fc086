"""Evaluation of a model on a test loader, which a signal can stop."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import nn

from .stopping import StoppedBySignal, StopRequest, agreed_signal

Batch = list[dict[str, Any]]


def evaluate(
    model: nn.Module,
    images: Collection[Batch],
    evaluators: Sequence[DatasetEvaluator],
    stop: StopRequest | None = None,
    iteration: int = 0,
) -> dict[str, Any]:
    """Run a model on the test images and log its metrics for each task.

    Args:
        images: batches of a test loader, with a length.
        evaluators: evaluators that process each batch and the model's outputs for it.
        stop: request to stop, which is agreed upon by all processes after their images.
        iteration: last iteration of the training, for messages.

    Returns:
        Metrics by task, for example ``{"bbox": {"AP": 48.0, …}}``; empty except on the main process.

    Raises:
        StoppedBySignal: a process was asked to stop.
    """
    stop = StopRequest() if stop is None else stop
    results = inference_on_dataset(model, UntilStop(images, stop), _UnlessStopped(evaluators, stop, iteration))
    if comm.is_main_process():
        print_csv_format(results)
    return results


class UntilStop:
    """Batches of a loader until this process is asked to stop."""

    def __init__(self, images: Collection[Batch], stop: StopRequest) -> None:
        self._images = images
        self._stop = stop

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._images:
            if self._stop.signal:
                return
            yield batch


class _UnlessStopped(DatasetEvaluators):
    """Evaluators that compute no metrics if a process was asked to stop and has not processed all of its images."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator], stop: StopRequest, iteration: int) -> None:
        super().__init__(list(evaluators))
        self._stop = stop
        self._iteration = iteration

    def evaluate(self) -> Any:
        number = agreed_signal(comm.all_gather(self._stop.signal))
        if number:
            raise StoppedBySignal(number, self._iteration)
        return super().evaluate()
