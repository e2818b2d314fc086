"""Work ahead of the consumer: order, bounds, errors and early ends."""

import threading
import time

import pytest

from flash_internimage.inference.ahead import iterate_ahead, map_ahead


@pytest.mark.parametrize("ahead", [0, 1, 10])
def test_results_are_in_order(ahead):
    def slow_at_first(number):
        time.sleep(0.02 if number == 0 else 0)
        return -number

    assert list(map_ahead(slow_at_first, range(8), ahead)) == [-number for number in range(8)]
    assert list(iterate_ahead(range(8), ahead)) == list(range(8))


def test_only_some_items_are_taken_ahead():
    taken = []
    results = map_ahead(lambda number: number, (taken.append(n) or n for n in range(100)), ahead=3)
    assert next(results) == 0
    assert len(taken) == 4
    results.close()


def test_a_thread_takes_only_some_items_ahead_and_ends_with_its_consumer():
    taken = []
    before = threading.active_count()
    results = iterate_ahead((taken.append(n) or n for n in range(100)), ahead=3)
    assert next(results) == 0
    time.sleep(0.1)
    assert len(taken) <= 1 + 3 + 1  # the first, those that wait, and the one that the thread holds
    results.close()
    assert threading.active_count() == before


def test_an_error_comes_in_the_place_of_its_item():
    results = map_ahead(lambda number: 1 // (number - 2), range(5), ahead=4)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_of_the_iterable_comes_after_the_items_before_it():
    results = iterate_ahead((1 // (n - 2) for n in range(5)), ahead=4)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_functions_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=5)
    assert sorted(map_ahead(lambda _: barrier.wait(), range(3), ahead=3, threads=3)) == [0, 1, 2]
