"""What schedules of every kind cost on seeded chains, moment by moment, to the byte and second."""

import dataclasses
import random

import pytest
from answers import asked, everything, known, plain, spotlights
from costs import block, chain, mode
from nested import NAMES, nestings

from strategies.schedules import abstract_machine, link, sharing  # noqa: F401 - what it is about
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.schedule import Schedule

SEEDS = range(24)
MOMENTS = 5


def some(seed):
    """A chain, every other one with shared tensors, and a few schedules for it, as they rest."""
    rng = random.Random(seed)
    profile = everything(seed, 2 + seed % 3, shared=seed % 2 == 1)
    count = len(profile.blocks)
    for plan in rng.sample(nestings(0, count), min(MOMENTS, len(nestings(0, count)))):
        modes = [rng.choice(NAMES[:2]) if i in plan else NAMES[0] for i in range(count)]
        starts = [plans.first(node) for node in plan if isinstance(node, tuple)]
        away = frozenset(start for start in starts if rng.random() < 0.4)
        schedule = Schedule(plan, tuple(modes), away, profile.link_tier)
        sizes = [profile.boundary_bytes(index) for index in range(count)]
        resting = [rng.choice((size, size, size // 2, 0, size + 2)) for size in sizes]
        yield profile, schedule, rng.choice((None, resting))


def predicted(seed):
    return [
        [schedule.render(), *dataclasses.astuple(predict(profile, schedule, resting))]
        for profile, schedule, resting in some(seed)
    ]


def moments(seed):
    """The most alive at each moment of a step, and what the moment is called."""
    for profile, schedule, resting in some(seed):
        for lit in spotlights(profile):
            prediction = predict(lit, schedule, resting)
            yield prediction.peak_bytes, prediction.peak_phase


def large(seed):
    """Boundaries of more bytes than Python has numbers at hand, at rest as they are."""
    for profile, schedule, _ in some(seed):
        blocks = (
            dataclasses.replace(block, output_bytes=block.output_bytes + 1000)
            for block in profile.blocks
        )
        bigger = dataclasses.replace(profile, blocks=tuple(blocks), input_bytes=2000)
        resting = [int(str(bigger.boundary_bytes(index))) for index in range(len(bigger.blocks))]
        assert predict(bigger, schedule, resting) == predict(bigger, schedule)
        yield predict(bigger, schedule).peak_bytes


QUESTIONS = {
    "large": lambda seed: list(large(seed)),
    "predicted": predicted,
    "moments": lambda seed: list(moments(seed)),
}


@pytest.mark.parametrize(("question", "seed"), asked("interpreter"))
def test_a_step_costs_what_it_did(question, seed):
    assert plain(QUESTIONS[question](seed)) == known("interpreter")[question][str(seed)]


def test_what_a_group_costs_is_known_of_first_modes_alone():
    profile = chain(*2 * [block(mode(name="compiled(100)"), mode(name="all"))])
    schedule = Schedule(((0, 1),), ("compiled(100)", "all"))
    message = r"^what block 1 costs in a group is known of mode compiled\(100\), not of all$"
    with pytest.raises(ValueError, match=message):
        predict(profile, schedule)
    assert predict(profile, ((0, 1),)) == predict(profile, profile.schedule(((0, 1),)))
    assert predict(profile, profile.schedule((0, 1))).block_forwards == (1, 1)
