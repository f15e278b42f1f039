"""The programme of `selective_ops` on seeded chains, row by row."""

import dataclasses
import random

import pytest
from answers import asked, everything, known, plain
from programmes import written
from test_milp_answers import brief
from test_selective_ops import random_block

from strategies.schedules.interpreter import predict
from strategies.solvers import selective_ops, selective_ops_tensors  # noqa: F401

SEEDS = range(16)


def chain(seed):
    rng = random.Random(seed)
    profile = everything(seed, 1 + seed % 3, 1, shared=seed % 2 == 1)
    found = tuple(random_block(rng, block, profile.group_bytes) for block in profile.blocks)
    found = (*found[:-1], dataclasses.replace(found[-1], operators=None)) if seed % 4 > 1 else found
    found = tuple(lasting(*each) for each in enumerate(found))
    return brief(dataclasses.replace(profile, blocks=found))


def lasting(index, block):
    """A mode that takes longer than the fastest of a block."""
    mode = dataclasses.replace(block.modes[0], recompute_s=float(index))
    return dataclasses.replace(block, modes=(mode,))


def whole(seed):
    profile = chain(seed)
    high = predict(profile, tuple(range(len(profile.blocks)))).peak_bytes
    programme = selective_ops.Programme(profile, high - 9, 0.25)
    programme.solved()  # which says what it costs
    return written(programme.model)


def answers(seed):
    """By budget: what is found, and what is proven; and the most that is too little."""
    profile = chain(seed)
    low = selective_ops.smallest_bytes(profile)
    high = predict(profile, tuple(range(len(profile.blocks)))).peak_bytes
    for budget_bytes in (0, low - 1, low, (low + high) // 2):
        found = selective_ops.solve(profile, budget_bytes, 0.0)
        proven_s = round(selective_ops.bound_s(profile, budget_bytes), 6)
        repeated_s = found and predict(profile, found.schedule).recompute_s
        yield budget_bytes, proven_s, found and (repeated_s, round(found.bound_s, 6))


QUESTIONS = {"whole": whole, "answers": lambda seed: list(answers(seed))}


@pytest.mark.parametrize(("question", "seed"), asked("selective_ops"))
def test_the_programme_is_what_it_was(question, seed):
    assert plain(QUESTIONS[question](seed)) == known("selective_ops")[question][str(seed)]


def test_a_gap_is_of_what_is_repeated_or_a_tenth_of_it_of_the_step():
    profile = chain(0)
    programme = selective_ops.Programme(profile, 99, 0.25)
    second = max(block.last_recompute_s for block in profile.blocks)
    options = {
        "mip_rel_gap": 0.25,
        "mip_abs_gap": 0.025 * profile.plain_step_s / second,
        "mip_max_nodes": 500,
    }
    model = programme.model
    assert {name: model.getOptionValue(name)[1] for name in options} == pytest.approx(options)
