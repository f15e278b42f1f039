"""Binomial and recursive plans against closed forms, and an interpreter of slots."""

import itertools
import math

import pytest
from models import CASES
from nested import nestings

import strategies
from strategies.schedules import plan as plans
from strategies.solvers import binomial, recursive


def repetitions(n_blocks, slots):
    """r: the least number with L ≤ C(c + r, c); no block is advanced over more often."""
    count = 0
    while math.comb(slots + count, slots) < n_blocks:
        count += 1
    return count


def closed_form(n_blocks, slots):
    """t(L, c) = r·L − C(c + r, r − 1): the least number of forward steps (equation 2)."""
    count = repetitions(n_blocks, slots)
    return count * n_blocks - math.comb(slots + count, count - 1) if count else 0


@pytest.mark.parametrize("slots", range(1, 21))
def test_the_programme_equals_the_closed_form(slots):
    for blocks in range(1, 201):
        assert binomial.advances(blocks, slots) == closed_form(blocks, slots)


@pytest.mark.parametrize(
    ("blocks", "slots", "steps"),
    # By hand: one slot starts from the input each time; many slots need each block once more.
    [(1, 1, 0), (4, 1, 3 + 2 + 1), (4, 3, 3), (10, 9, 9), (6, 2, 3 + 2 + 1 + 1 + 1)],
)
def test_small_cases(blocks, slots, steps):
    assert closed_form(blocks, slots) == steps


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 10, 33, 84, 200])
def test_a_plan_enters_its_blocks_that_often(blocks, slots):
    plan = binomial.nested(blocks, slots)
    plans.validate(plan, blocks)
    counts = plans.forward_counts(plan, blocks)
    assert sum(counts) == blocks + closed_form(blocks, slots)
    assert max(counts) <= 1 + repetitions(blocks, slots) or slots == 1


def most_held(nodes, held=frozenset()):
    """Boundaries held at once: inputs of groups that are still to be run again."""
    inputs = {plans.first(node) for node in nodes if not isinstance(node, int)}
    most = len(held | inputs)
    for node in nodes:  # unwound last to first: those that begin later are gone by then
        if not isinstance(node, int):
            earlier = {begin for begin in inputs if begin <= plans.first(node)}
            most = max(most, most_held(node, held | earlier))
    return most


@pytest.mark.parametrize("slots", range(1, 8))
@pytest.mark.parametrize("blocks", [1, 2, 5, 10, 33, 84])
def test_no_more_is_held_than_there_are_slots(blocks, slots):
    plan = binomial.nested(blocks, slots)
    assert most_held(plan) <= slots


def one_at_a_time(nodes):
    """Whether at most one block at once holds what its backward needs: the last of a stretch."""
    return all(
        one_at_a_time(node) if not isinstance(node, int) else node is nodes[-1] for node in nodes
    )


def test_no_nested_plan_with_as_many_slots_is_cheaper():
    for blocks, slots in itertools.product(range(2, 7), range(1, 4)):
        known = [plan for plan in nestings(0, blocks) if one_at_a_time(plan)]
        fitting = [plan for plan in known if most_held(plan) <= slots]
        least = min(sum(plans.forward_counts(plan, blocks)) for plan in fitting)
        assert least == blocks + closed_form(blocks, slots)


@pytest.mark.parametrize("blocks", [2, 4, 8, 16, 64])
def test_halves_take_the_logarithm_in_forwards_and_in_slots(blocks):
    plan = recursive.nested(blocks)
    levels = int(math.log2(blocks))
    plans.validate(plan, blocks)
    assert sum(plans.forward_counts(plan, blocks)) == blocks + blocks * levels // 2
    assert most_held(plan) == levels
    assert max(plans.forward_counts(plan, blocks)) == 1 + levels


@pytest.mark.parametrize("branching", [2, 3, 5])
@pytest.mark.parametrize("blocks", [1, 2, 7, 30])
def test_any_length_and_branching(blocks, branching):
    plans.validate(recursive.nested(blocks, branching), blocks)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("recursive", "[[0] 1] [2] 3"),
        ("recursive(branching=4)", "[0] [1] [2] 3"),
        ("binomial(slots=1)", "[[[0] 1] 2] 3"),
        ("binomial(slots=2)", "[[0] 1] [2] 3"),
        ("binomial(slots=3)", "[0] [1] [2] 3"),
    ],
)
def test_strategies(spec, text):
    class Four:
        def __len__(self):
            return 4

    assert plans.render(strategies.get(spec).plan(Four())) == text


@pytest.mark.parametrize("spec", ["binomial(slots=0)", "recursive(branching=1)"])
def test_impossible_parameters(spec):
    with pytest.raises(ValueError, match="must be at least"):
        strategies.get(spec)


def test_needless_slots_are_noted():
    model = CASES["gpt"].model()
    blocks = len(strategies.find_chain(model))
    applied = strategies.apply(model, "binomial", slots=blocks)
    assert applied.notes == [f"{blocks - 1} slots are as good as {blocks} for {blocks} blocks"]
