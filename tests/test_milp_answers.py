"""The programme of `milp` on seeded chains, row by row, and that nothing over the budget is found.

A row that is missing shows in no answer where another one says as much of the chain at hand.
"""

import dataclasses
import math

import pytest
from answers import SHINES_BYTES, asked, dark, everything, known, plain, working
from nested import random_profile
from programmes import written
from test_milp import scaled

from strategies.schedules.interpreter import predict
from strategies.solvers import highs, milp, milp_choices, milp_programme  # noqa: F401

SEEDS = range(8)


def chain(seed):
    return brief(everything(seed, 1 + seed % 3))


def brief(profile):
    """The same in less than a second, where a bound of one would show."""
    blocks = (
        faster(block, "forward_s", "backward_s", "last_recompute_s") for block in profile.blocks
    )
    blocks = [
        dataclasses.replace(block, modes=tuple(faster(mode, "recompute_s") for mode in block.modes))
        for block in blocks
    ]
    return dataclasses.replace(faster(profile, "fixed_s"), blocks=tuple(blocks))


def faster(costs, *names):
    return dataclasses.replace(costs, **{name: getattr(costs, name) / 64 for name in names})


def whole(seed):
    """A programme as it is written, for the fastest and for the smallest."""
    profile = chain(seed)
    high = predict(profile, tuple(range(len(profile.blocks)))).peak_bytes
    return [
        written(milp._programme(profile, high - 9, smallest=smallest).model)
        for smallest in ([False, True] if seed % 3 == 1 else [False])
    ]


def scale(seed):
    """What bytes are counted in, and the room of that."""
    profile, found = chain(seed), []
    for profile in (chain(seed), dark(chain(seed))):
        for most_bytes in (1, 63, 64, 1000):
            unit = milp_programme.Scale.of(profile, most_bytes)
            found.append([unit.grain_bytes, unit.unit_bytes, unit.room(most_bytes)])
    return found


def lit(profile):
    """With a moment that no plan changes above all others."""
    yield profile
    for name in working(profile):
        yield dataclasses.replace(profile, **{name: getattr(profile, name) + SHINES_BYTES})


def fixed(seed):
    """What head and update need."""
    return [milp._fixed_bytes(profile) for profile in lit(chain(seed))]


def answers(seed):
    """By budget: what is found, and what is proven; and the most that is too little."""
    profile = chain(seed)
    low = milp.smallest_bytes(profile)
    high = predict(profile, tuple(range(len(profile.blocks)))).peak_bytes
    for budget_bytes in (low - 1, low, (low + high) // 2):
        found = milp.solve(profile, budget_bytes)
        repeated_s = found and predict(profile, found.schedule).recompute_s
        yield budget_bytes, found and (repeated_s, round(found.bound_s, 6))


QUESTIONS = {
    "whole": whole,
    "scale": scale,
    "fixed": fixed,
    "answers": lambda seed: list(answers(seed)),
}


@pytest.mark.parametrize(("question", "seed"), asked("milp"))
def test_the_programme_is_what_it_was(question, seed):
    assert plain(QUESTIONS[question](seed)) == known("milp")[question][str(seed)]


def test_a_solver_drops_no_single_bytes_and_shares_no_threads():
    model = highs.new_model(mip_rel_gap=0.25)
    options = {"output_flag": False, "threads": 1, "small_matrix_value": 1e-12, "mip_rel_gap": 0.25}
    assert {name: model.getOptionValue(name)[1] for name in options} == options


@pytest.mark.parametrize(("least", "feasible"), [(0.25, True), (2.0, False)])
def test_a_solver_says_what_it_knows(least, feasible):
    model = highs.new_model()
    model.addConstr(highs.total([model.addBinary()]) >= least)
    model.minimize(highs.total(model.getVariables()))
    assert highs.is_feasible(model) is feasible
    assert highs.bound(model) == (1.0 if feasible else math.inf)


@pytest.mark.parametrize("name", working(chain(0)))
def test_what_no_plan_changes_fits_to_the_byte(name):
    """Whichever moment it is of that needs most."""
    profile = chain(1)
    profile = dataclasses.replace(profile, **{name: getattr(profile, name) + SHINES_BYTES})
    low = milp.smallest_bytes(profile)
    assert milp.solve(profile, low) is not None
    assert milp.solve(profile, low - 1) is None


def test_where_nothing_has_a_size_bytes_are_bytes():
    empty = scaled(random_profile(0, 1), 0)
    assert milp_programme.Scale.of(empty, 5) == milp_programme.Scale(1, 8.0)
