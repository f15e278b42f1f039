"""What `hybrid` reads of seeded chains, its table step by step, and what it answers."""

import random

import numpy as np
import pytest
from answers import asked, everything, known, plain, steps

from strategies.schedules.interpreter import predict
from strategies.solvers import hybrid, hybrid_table, optimal  # noqa: F401 - what it is about
from strategies.solvers.hybrid_numbers import roads_of
from strategies.solvers.hybrid_solver import Solver

SEEDS = range(12)


def chain(seed):
    return everything(seed, 1 + seed % 3)


def roads(seed):
    return [[np.asarray(value).tolist() for value in roads_of(chain(seed), n)] for n in (1, 7)]


def budgets(profile):
    """From too little to more than enough."""
    low = hybrid.smallest_bytes(profile)
    high = predict(profile, tuple(range(len(profile.blocks)))).peak_bytes
    return [low - 1, low, (low + high) // 2]


def tables(seed):
    """Rows of every road; the schedules at each step of the whole."""
    profile, rng = chain(seed), random.Random(seed)
    inside = optimal.Solver(profile, budgets(profile)[2], rng.choice((9, 30)))
    for weight in rng.sample(hybrid.WEIGHTS, 2):
        solver = Solver(inside, weight)
        rows = solver.table.reshape(-1, solver.table.shape[-1])
        found = [steps(row) for row in rows]
        whole = [(at, solver.schedule(at).render()) for at, _ in steps(solver.row)]
        yield solver.bound_s(), found, whole


def answers(seed):
    """By budget: what is found, what is proven."""
    profile = chain(seed)
    for budget_bytes in budgets(profile):
        found = hybrid.solve(profile, budget_bytes, 30)
        yield (
            budget_bytes,
            found
            and (
                found.schedule.render(),
                found.bound_s,
                found.slot_bytes,
            ),
        )


def simple(seed):
    """Schedules that need no solver, and what is next to each."""
    profile = chain(seed)
    for schedule in hybrid.heuristics(profile):
        beside = hybrid.neighbours(profile, schedule)
        yield schedule.render(), [neighbour.render() for neighbour in beside]


QUESTIONS = {
    "roads": roads,
    "tables": lambda seed: list(tables(seed)),
    "answers": lambda seed: list(answers(seed)),
    "simple": lambda seed: list(simple(seed)),
}


@pytest.mark.parametrize(("question", "seed"), asked("hybrid_table"))
def test_a_chain_is_solved_as_it_was(question, seed):
    assert plain(QUESTIONS[question](seed)) == known("hybrid_table")[question][str(seed)]
