"""Iterators that work ahead of their consumer in threads: images are decoded while the model runs."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 4
"""Threads that decode images: decoders of PIL and OpenCV release Python's lock."""


def map_ahead(function: Callable[[T], R], items: Iterable[T], ahead: int, threads: int = THREADS) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in order, computed in threads.

    An exception of the function is raised in the place of its result.

    Args:
        items: iterated in the thread of the consumer, up to ``ahead`` items further than the results.
        ahead: number of results that may wait.
    """
    items = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also when the consumer stops early
            for future in waiting:
                future.cancel()


def iterate_ahead(items: Iterable[T], ahead: int) -> Iterator[T]:
    """Yield the items of an iterable that a thread iterates, such as the frames of a video.

    An exception of the iterable is raised after the items before it. The thread ends with the iterator.

    Args:
        ahead: number of items that may wait.
    """
    results: queue.Queue[tuple[str, Any]] = queue.Queue(max(ahead, 1))
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            try:
                return results.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        for kind, value in iter(results.get, None):
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
