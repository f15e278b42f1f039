"""Plans: their text, their checks, and how often they run each block."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import chain_of, nested_plans

import strategies
from strategies.schedules import plan as plans

any_plan = st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), nested_plans(0, n)))


def groups(plan):
    """Every recompute group in a plan, nested ones too."""
    for node in plan:
        if not isinstance(node, int):
            yield node
            yield from groups(node)


def test_a_plan_is_read_as_it_is_written():
    plan = (0, 1, (2, 3), ((4, 5), 6))
    assert plans.render(plan) == "0 1 [2 3] [[4 5] 6]"
    assert plans.parse("0 1 [2 3] [[4 5] 6]") == plan
    assert plans.parse("  0 1[2 3 ][ [4 5]6]\n") == plan
    assert plans.parse("") == ()
    assert list(plans.leaves(plan)) == [0, 1, 2, 3, 4, 5, 6]
    assert plans.first(plan[3]) == 4


@given(any_plan)
def test_text_and_back(drawn):
    n_blocks, plan = drawn
    assert plans.parse(plans.render(plan)) == plan
    plans.validate(plan, n_blocks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 [1", "bracket is not closed"),
        ("0 ] 1", "closes what none opened"),
        ("0 1a", "indices and brackets, not 'a'"),
        ("-1", "indices and brackets, not '-1'"),
        ("0, 1", "indices and brackets, not ', 1'"),
    ],
)
def test_text_that_is_no_plan(text, message):
    with pytest.raises(ValueError, match=message):
        plans.parse(text)


@pytest.mark.parametrize(
    "plan", [(0, 1), (0, 1, 2, 3), (0, 2, 1), (0, 1, 1), (1, 2), ((0, 2), 1), ()]
)
def test_a_plan_must_list_every_block_once_in_order(plan):
    with pytest.raises(ValueError, match="blocks 0 to 2 once each, in order"):
        plans.validate(plan, 3)


@pytest.mark.parametrize("plan", [(0, (), 1, 2), (0, (1, ((),)), 2)])
def test_a_group_holds_something(plan):
    with pytest.raises(ValueError, match="empty recompute group"):
        plans.validate(plan, 3)


@given(st.integers(0, 20), st.integers(1, 25), st.booleans())
def test_uniform_groups(n_blocks, size, keep_last):
    plan = plans.uniform(n_blocks, size, keep_last=keep_last)
    plans.validate(plan, n_blocks)
    found = [node for node in plan if not isinstance(node, int)]
    whole = math.ceil(n_blocks / size) - (keep_last and n_blocks > 0)
    assert len(found) == whole
    assert all(len(group) == size for group in found[: whole if keep_last else -1])
    assert all(isinstance(child, int) for group in found for child in group)
    if keep_last:
        assert 0 < len(plan) - whole <= size or n_blocks == 0


def test_uniform_groups_as_text():
    assert plans.render(plans.plain(3)) == "0 1 2"
    assert plans.render(plans.uniform(5, 2)) == "[0 1] [2 3] [4]"
    assert plans.render(plans.uniform(5, 2, keep_last=True)) == "[0 1] [2 3] 4"
    assert plans.render(plans.uniform(4, 4, keep_last=True)) == "0 1 2 3"
    assert plans.render(plans.uniform(3, 9)) == "[0 1 2]"
    with pytest.raises(ValueError, match="at least 1 block, not 0"):
        plans.uniform(3, 0)


@given(any_plan, st.data())
def test_split_leaves_no_group_across_a_border(drawn, data):
    n_blocks, plan = drawn
    borders = sorted(data.draw(st.sets(st.integers(1, n_blocks))))
    cut = plans.split(plan, borders)
    plans.validate(cut, n_blocks)
    for group in groups(cut):
        inside = list(plans.leaves(group))
        assert not any(inside[0] < border <= inside[-1] for border in borders)
    assert plans.split(cut, borders) == cut
    assert plans.split(plan, []) == plan
    bare = {node for node in plan if isinstance(node, int)}
    assert {node for node in cut if isinstance(node, int)} == bare


def test_split_of_nested_groups():
    plan = (0, ((1, 2), (3, 4), 5))
    assert plans.render(plans.split(plan, [3])) == "0 [[1 2]] [[3 4] 5]"
    assert plans.render(plans.split(plan, [2])) == "0 [[1]] [[2] [3 4] 5]"
    assert plans.render(plans.split(plan, [1, 5])) == "0 [[1 2] [3 4]] [5]"


def test_forward_counts_of_nested_groups():
    assert plans.forward_counts(plans.parse("0 [1 2] [3]"), 4) == [1, 2, 2, 2]
    assert plans.forward_counts(plans.parse("[0 1 [2 3]]"), 4) == [2, 2, 2, 2]
    assert plans.forward_counts(plans.parse("[[0 1] 2]"), 3) == [3, 3, 2]
    assert plans.forward_counts(plans.parse("[0 [1 [2 [3]]]]"), 4) == [2, 2, 2, 2]
    assert plans.forward_counts(plans.parse("[[[0 1] 2] 3]"), 4) == [4, 4, 3, 2]


@given(any_plan)
def test_forward_counts_are_within_the_depth_of_nesting(drawn):
    n_blocks, plan = drawn

    def depths(nodes, depth=1):
        for node in nodes:
            yield from [depth] if isinstance(node, int) else depths(node, depth + 1)

    counts = plans.forward_counts(plan, n_blocks)
    for count, depth in zip(counts, depths(plan), strict=True):
        assert min(depth, 2) <= count <= depth


@pytest.mark.parametrize("n_blocks", range(1, 18))
def test_the_plans_of_the_textbook(n_blocks):
    chain = strategies.find_chain(chain_of(max(n_blocks, 2)), None)
    chain = strategies.Chain(
        chain.containers, chain.paths, chain.blocks[:n_blocks], chain.names[:n_blocks], ()
    )
    assert len(chain) == n_blocks

    def counts(spec):
        return plans.forward_counts(strategies.get(spec).plan(chain), n_blocks)

    assert counts("none") == [1] * n_blocks
    assert counts("every_layer") == [2] * n_blocks
    for k in (1, 2, 4, 8):
        assert counts(f"every_k(k={k})") == [2] * n_blocks
        kept = (n_blocks - 1) % k + 1
        assert counts(f"every_k(k={k}, keep_last=True)") == [2] * (n_blocks - kept) + [1] * kept
    size = math.ceil(math.sqrt(n_blocks))
    kept = (n_blocks - 1) % size + 1
    assert counts("sqrt") == [2] * (n_blocks - kept) + [1] * kept
    assert counts("sqrt(keep_last=False)") == [2] * n_blocks
    boundaries = [n for n in strategies.get("sqrt").plan(chain) if not isinstance(n, int)]
    assert len(boundaries) == math.ceil(n_blocks / size) - 1


def test_sqrt_of_sixteen_blocks():
    chain = strategies.find_chain(chain_of(16))
    plan = strategies.get("sqrt").plan(chain)
    assert plans.render(plan) == "[0 1 2 3] [4 5 6 7] [8 9 10 11] 12 13 14 15"
    assert sum(plans.forward_counts(plan, 16)) == 28  # 1.75 forwards a block
