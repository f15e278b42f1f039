"""What `optimal` reads of seeded chains, its table step by step, and what it answers."""

import bisect
import dataclasses
import functools
import itertools
import random

import numpy as np
import pytest
from answers import SHINES_BYTES, asked, everything, known, plain, steps, working
from costs import block
from costs import chain as chain_of

from strategies.schedules.interpreter import predict
from strategies.solvers import optimal, optimal_table
from strategies.solvers.optimal_numbers import numbers_of, slot_bytes_for
from strategies.solvers.optimal_stretches import stretches_of

SEEDS = range(24)


def chain(seed):
    """Unlike blocks, or a few of a kind."""
    profile = everything(seed, 1 + seed % 4, shared=seed % 5 == 4)
    if seed % 3:
        return profile
    again = (*profile.blocks, profile.blocks[0], profile.blocks[0])
    return dataclasses.replace(profile, blocks=again, shared=())


def numbers(seed):
    """In slots of a byte, and of some; and what is solved as one."""
    profile = chain(seed)
    rows = [value.tolist() for value in stretches_of(profile)[:2]]
    found = [[np.asarray(value).tolist() for value in numbers_of(profile, n)] for n in (1, 7)]
    return [rows, stretches_of(profile).work, [table[:16] for table in found]]


def slots(seed):
    """Of how many bytes, where there are so many at most."""
    profile = chain(seed)
    return [slot_bytes_for(profile, total, few) for total in (60, 200, 999) for few in (9, 50, 300)]


def budgets(profile):
    """From too little to more than enough."""
    low = optimal.smallest_bytes(profile)
    high = predict(profile, tuple(range(len(profile.blocks)))).peak_bytes
    return [low - 1, low, (low + high) // 2, high, high + 1]


def tables(seed):
    """Rows whose stretch begins or ends somewhere; the schedules at each step of the whole."""
    profile, rng = chain(seed), random.Random(seed)
    for budget_bytes, few in itertools.product(budgets(profile)[2:4], (9, 10_000)):
        solver = optimal.Solver(profile, budget_bytes, few)
        rows = [row for plane in solver.table for row in plane]
        found = [steps(row) for row in rng.sample(rows, min(6, len(rows)))]
        whole = [(at, solver.schedule(at).render()) for at, _ in steps(solver.top)]
        yield solver.slots, solver.start, solver.slot_bytes, solver.held, found, whole


def answers(seed):
    """By budget: what is found, what is proven."""
    profile = chain(seed)
    for budget_bytes, few in itertools.product(budgets(profile), (0, 9)):
        found = optimal.solve(profile, budget_bytes, few)
        proven = optimal.bound_s(profile, budget_bytes, few)
        fits = optimal.fixed_terms_fit(profile, budget_bytes)
        yield budget_bytes, proven, fits, found and said(found)


def said(solution):
    return solution.schedule.render(), solution.bound_s, solution.slot_bytes


def fixed(seed):
    """The least that head and update leave room in, whichever of them needs most."""
    profile = chain(seed)
    for name in ("none", *working(profile)):
        more = {} if name == "none" else {name: getattr(profile, name) + SHINES_BYTES}
        lit = dataclasses.replace(profile, **more)
        yield bisect.bisect_left(
            range(2 * SHINES_BYTES), True, key=functools.partial(optimal.fixed_terms_fit, lit)
        )


QUESTIONS = {
    "fixed": lambda seed: list(fixed(seed)),
    "numbers": numbers,
    "slots": slots,
    "tables": lambda seed: list(tables(seed)),
    "answers": lambda seed: list(answers(seed)),
}


@pytest.mark.parametrize(("question", "seed"), asked("optimal_table"))
def test_a_chain_is_solved_as_it_was(question, seed):
    assert plain(QUESTIONS[question](seed)) == known("optimal_table")[question][str(seed)]


def test_stretches_that_go_on_otherwise_have_rows_of_their_own():
    """a a b against a a c: of each begin and length, one row for each way to go on."""
    a, b, c = (block(forward_s=seconds) for seconds in (1.0, 2.0, 3.0))
    rows = stretches_of(chain_of(a, a, b, a, a, c)).rows
    assert rows[1, 1] == rows[3, 3] == rows[4, 4]
    assert rows[0, 1] == rows[3, 4]
    assert rows[0, 2] != rows[3, 5]
    assert rows[1, 2] != rows[4, 5]


@pytest.mark.parametrize(("most_bytes", "dtype"), [(240, "float64"), (239, "float32")])
@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (1, 6), (6, 1)])
def test_a_table_that_would_be_large_is_of_single_precision(shape, most_bytes, dtype, monkeypatch):
    monkeypatch.setattr(optimal_table, "MOST_BYTES", most_bytes)
    assert optimal_table.empty(*shape, 4).dtype == dtype
    assert optimal_table.empty(*shape, 4).shape == (*shape, 5)
