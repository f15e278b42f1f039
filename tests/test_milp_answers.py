"""The programme of `milp` on seeded chains, row by row, and that nothing over the budget is found.

A row that is missing shows in no answer where another one says as much of the chain at hand.
"""

import pytest
from answers import asked, dark, everything, known, plain
from programmes import written

from strategies.schedules.interpreter import predict
from strategies.solvers import milp, milp_choices, milp_programme  # noqa: F401

SEEDS = range(8)


def chain(seed):
    return everything(seed, 1 + seed % 3)


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


QUESTIONS = {"whole": whole, "scale": scale}


@pytest.mark.parametrize(("question", "seed"), asked("milp"))
def test_the_programme_is_what_it_was(question, seed):
    assert plain(QUESTIONS[question](seed)) == known("milp")[question][str(seed)]
