"""Contenders are interleaved, and only the step is on the clock. No test here waits."""

import contextlib
import gc
import itertools
import statistics
import types
from collections import Counter

import pytest
import torch

from bench.measure import time as clock
from bench.measure.time import interleave
from bench.report.stats import centre

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


@pytest.mark.parametrize("count", range(1, 9))
def test_orders_are_a_williams_design(count):
    """Every place, and right after every other, equally often; any two both ways round at once."""
    names = "abcdefgh"[:count]
    rounds = list(itertools.islice(clock.orders(names), 2 * count if count % 2 else count))
    places = Counter((name, place) for order in rounds for place, name in enumerate(order))
    followers = Counter(pair for order in rounds for pair in itertools.pairwise(order))
    assert len(set(places.values())) == 1
    assert len(places) == count**2
    assert len(set(followers.values())) <= 1
    assert len(followers) == count * (count - 1)
    for order, reverse in zip(rounds[::2], rounds[1::2], strict=True):
        assert order == reverse[::-1]


def test_an_order_effect_cancels_in_even_rounds(now):
    """Two equal contenders, whose second step in a round is faster by 4 %: their ratio is 1."""
    turns = itertools.cycle((1.0, 0.96))

    def step():
        now.seconds += next(turns)

    def ratios(rounds):
        seconds = interleave({name: contender([], name, step) for name in "ab"}, rounds, CPU)
        return [b / a for a, b in zip(seconds["a"], seconds["b"], strict=True)]

    for rounds, mean in ((6, 1.0), (7, 0.96 ** (1 / 7))):
        assert statistics.geometric_mean(ratios(rounds)) == pytest.approx(mean)
    assert centre(tuple(ratios(6))).estimate == pytest.approx(1.0)


def test_the_order_is_reversed_every_other_round():
    log = []
    contenders = {name: contender(log, name) for name in "abc"}
    seconds = interleave(contenders, 3, CPU)
    assert [entry for entry in log if len(entry) == 1] == list("abc" + "cba" + "bca")
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
