"""The search for the schedule with the smallest peak: what it asks a solver for."""

import pytest
from nested import random_profile

from strategies.schedules.interpreter import predict
from strategies.schedules.plan import parse
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import leanest

PROFILE = random_profile(4, 3, big=10**4)
PLAIN, GROUPS = Schedule(parse("0 1 2")), Schedule(parse("[0] [1] [2]"))
MOST_BYTES, LEAST_BYTES = (predict(PROFILE, one).peak_bytes for one in (PLAIN, GROUPS))


def asked(peak_bytes):
    """Less by an eighth, and while nothing is found by an eighth of that, down to a byte."""
    step_bytes = peak_bytes // 8
    while step_bytes:
        yield peak_bytes - 1 - step_bytes
        step_bytes //= 8
    yield peak_bytes - 1


def test_the_first_schedule_is_worse_than_the_second():
    assert LEAST_BYTES < MOST_BYTES * 7 // 8 - 1


@pytest.mark.parametrize("simple", [(PLAIN, GROUPS), (GROUPS, PLAIN)])
def test_steps_become_smaller_until_nothing_is_found(simple):
    budgets = []
    assert leanest.search(PROFILE, simple, budgets.append) == GROUPS
    assert budgets == list(asked(LEAST_BYTES))


def test_what_is_found_is_where_the_search_goes_on():
    """With the step that found it."""
    budgets = []

    def solve(budget_bytes):
        budgets.append(budget_bytes)
        return Solution(GROUPS, 0.0) if budget_bytes >= LEAST_BYTES else None

    assert leanest.search(PROFILE, [PLAIN], solve) == GROUPS
    step_bytes = MOST_BYTES // 8
    assert budgets[:2] == [MOST_BYTES - 1 - step_bytes, LEAST_BYTES - 1 - step_bytes]
    assert budgets[-1] == LEAST_BYTES - 1


@pytest.mark.parametrize(("more_bytes", "fits"), [(-1, False), (0, True), (1, True)])
def test_the_leanest_is_an_answer_where_it_fits(more_bytes, fits):
    answer = leanest.within(PROFILE, GROUPS, LEAST_BYTES + more_bytes)
    assert answer == (Solution(GROUPS, 0.0) if fits else None)
