"""Contenders are interleaved, and only the step is on the clock. No test here waits."""

import contextlib
import gc
import types

import pytest
import torch

from bench.measure import time as clock
from bench.measure.time import interleave

CPU = torch.device("cpu")


@pytest.fixture
def now(monkeypatch):
    """A clock that only moves when told."""
    state = types.SimpleNamespace(seconds=1000.0)
    fake = types.SimpleNamespace(perf_counter=lambda: state.seconds)
    monkeypatch.setattr(clock, "time", fake)
    return state


def contender(log, name, step=lambda: None, enter=lambda: None):
    @contextlib.contextmanager
    def switch():
        enter()
        log.append(f"enter {name}")
        yield lambda: (log.append(name), step())
        log.append(f"leave {name}")

    return switch


def test_the_order_is_reversed_every_other_round():
    log = []
    contenders = {name: contender(log, name) for name in "abc"}
    seconds = interleave(contenders, 3, CPU)
    assert [entry for entry in log if len(entry) == 1] == list("abc" + "cba" + "abc")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_each_step_runs_inside_its_own_set_up():
    log = []
    interleave({name: contender(log, name) for name in "ab"}, 2, CPU)
    expected = [f"enter {n},{n},leave {n}" for n in "abba"]
    assert log == ",".join(expected).split(",")


def test_no_rounds_measure_nothing():
    log = []
    assert interleave({"a": contender(log, "a")}, 0, CPU) == {"a": []}
    assert log == []


def test_seconds_are_the_steps_alone(now):
    durations = iter([1.0, 2.0, 4.0, 8.0])

    def step():
        now.seconds += next(durations)

    def set_up():
        now.seconds += 500

    contenders = {name: contender([], name, step, set_up) for name in "ab"}
    assert interleave(contenders, 2, CPU) == {"a": [1.0, 8.0], "b": [2.0, 4.0]}


def test_the_collector_rests_during_a_step():
    seen = []
    interleave({"a": contender([], "a", lambda: seen.append(gc.isenabled()))}, 2, CPU)
    assert seen == [False, False]
    assert gc.isenabled()


def test_the_collector_works_again_after_a_failure():
    def fail():
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        interleave({"a": contender([], "a", fail)}, 1, CPU)
    assert gc.isenabled()


def test_garbage_of_one_step_is_not_collected_in_another(monkeypatch):
    log = []
    monkeypatch.setattr(gc, "collect", lambda: log.append("collect"))
    interleave({"a": contender(log, "a")}, 1, CPU)
    assert log.index("collect") < log.index("a")


def test_an_accelerators_queue_is_waited_for_at_both_ends(now, monkeypatch):
    log = []

    def synchronize():
        log.append("synchronize")
        now.seconds += 10  # the device works off its queue

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    seconds = interleave({"a": contender(log, "a")}, 1, torch.device("cuda"))
    assert log == ["enter a", "synchronize", "a", "synchronize", "leave a"]
    assert seconds == {"a": [10.0]}  # the wait after the step counts, the one before does not


def test_a_cpu_has_no_queue(monkeypatch):
    monkeypatch.setattr(
        torch.accelerator, "synchronize", lambda: pytest.fail("nothing to wait for")
    )
    interleave({"a": contender([], "a")}, 1, CPU)
