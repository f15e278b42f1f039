"""Modes by name, and what a block takes under a policy over its operators, by hand."""

import dataclasses
import importlib
import math
import pkgutil
import re

import pytest
from costs import block, chain, mode

from strategies import schedules, solvers
from strategies.schedules.modes import (
    PS,
    BlockOperators,
    Compilation,
    Mode,
    Moment,
    Operator,
    away_by,
    keep,
    kept_by,
    tiers_of,
)
from strategies.schedules.profile import BlockCost, ChainProfile, Shared
from strategies.schedules.schedule import runs_again
from strategies.schedules.solution import Solution

BLOCK = BlockOperators(
    operators=(
        Operator("mm", 100, 3 * PS, flops=7, keepable=True, random=False),
        Operator("dropout", 40, 2 * PS, flops=0, keepable=True, random=True),
        Operator("gelu", 60, 5 * PS, flops=11, keepable=False, random=False),
        Operator("dropout", 30, PS, flops=0, keepable=True, random=True),
    ),
    forward=(Moment(50, ()), Moment(60, ((0, 100),)), Moment(20, ((0, 100), (1, 40)))),
    backward=(Moment(10, ((0, 100), (1, 40), (3, 30))), Moment(200, ((1, 40),))),
    checkpoint_bytes=16,
    backward_flops=100,
    fixed_ps=PS // 2,
)


@pytest.mark.parametrize(
    ("name", "how", "per_cent"),
    [
        ("compiled(50)", "compiled", 50),
        ("partitioned(0)", "partitioned", 0),
        ("compiled(100)", "compiled", 100),
    ],
)
def test_a_compilation_is_read_and_named(name, how, per_cent):
    assert Compilation.parse(name) == Compilation(how, per_cent)
    assert Compilation(how, per_cent).name == name


@pytest.mark.parametrize("name", ["all", "compiled(101)", "compiled(05)", "compiled()", "keep(1)"])
def test_another_name_is_no_compilation(name):
    assert Compilation.parse(name) is None


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("all", True),
        ("compiled(100)", True),
        ("partitioned(100)", True),
        ("compiled(99)", False),
        ("compiled(0)", False),
        ("core", False),
        ("keep(1)", False),
    ],
)
def test_modes_of_which_a_group_can_run_again(name, again):
    assert runs_again(name) is again


def test_a_mode_is_asked_for_by_name():
    cost = block(mode(name="all"), mode(name="core"), operators=BLOCK)
    assert cost.mode("core") is cost.modes[1]
    assert cost.mode("keep(0,3)") == BLOCK.mode("keep(0,3)")
    for name in ("keep(1)", "keep(9)", "products"):
        message = f"the block has no mode {name!r}; it has all, core"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            cost.mode(name)
    with pytest.raises(ValueError, match="no mode 'keep"):
        block(mode(name="all")).mode("keep(0)")


def test_a_profile_without_compiled_modes():
    eager, compiled = block(mode()), block(mode(), mode(name="compiled(50)"))
    both = chain(compiled, compiled, eager_blocks=(eager, eager))
    assert both.eager == chain(eager, eager)
    assert both.eager.eager is None
    assert compiled.mode("compiled(50)").name == "compiled(50)"


@pytest.mark.parametrize(("rate", "seconds"), [(4.0, 2.5), (0.0, math.inf), (math.inf, 0.0)])
def test_a_boundary_takes_time_on_the_link(rate, seconds):
    costs = chain(block(output_bytes=10), block(output_bytes=7), input_bytes=3)
    costs = dataclasses.replace(costs, link_bytes_per_s=rate)
    assert [costs.boundary_bytes(index) for index in range(3)] == [3, 10, 7]
    assert costs.transfer_s(1) == seconds


def test_what_a_policy_keeps_is_read_and_named():
    assert keep({31, 2, 5}) == "keep(2,5,31)"
    assert kept_by("keep(2,5,31)") == {2, 5, 31}
    assert kept_by("core") is None
    assert keep({31, 2, 5}, {5, 31}, "host") == "keep(2,5@host,31@host)"
    assert kept_by("keep(2,5@host,31)") == {2, 5, 31}
    assert away_by("keep(2,5@host,31)") == {5}
    assert away_by("keep(2)") == away_by("core") == frozenset()
    assert tiers_of("keep(1@host,2,3@disk)") == {"host", "disk"}
    assert not kept_by("keep(2@)")


@pytest.mark.parametrize(
    ("kept", "valid"),
    [
        ({0}, True),
        ({1, 3}, True),
        ({3}, True),  # what is drawn first runs again, and what comes later does not
        ({1}, False),  # the second would draw what the first did
        ({0, 2}, False),
        ({4}, False),
        (set(), True),
        (None, False),
    ],
)
def test_outputs_that_can_be_kept_together(kept, valid):
    assert BLOCK.valid(None if kept is None else frozenset(kept)) is valid


@pytest.mark.parametrize(
    ("name", "saved_bytes", "forward_bytes", "backward_bytes", "flops", "again_flops", "again_s"),
    [
        ("all", 16, 60, 200, 100, 18, 11.5),
        ("keep(0,3)", 146, 160, 70, 93, 11, 7.5),
        ("keep(0,1,3)", 186, 160, 70, 93, 11, 5.5),
    ],
)
def test_a_block_under_a_policy(
    name, saved_bytes, forward_bytes, backward_bytes, flops, again_flops, again_s
):
    assert BLOCK.mode(name) == Mode(
        name=name,
        saved_bytes=saved_bytes,
        keeps_input=True,
        keeps_output=False,
        forward_working_bytes=forward_bytes,
        backward_working_bytes=backward_bytes,
        backward_flops=flops,
        recompute_flops=again_flops,
        recompute_s=again_s,
    )


def test_what_rests_elsewhere_is_a_part_of_what_is_saved():
    plain, sent = BLOCK.mode("keep(0,1,3)"), BLOCK.mode("keep(0@host,1,3@host)")
    assert sent == dataclasses.replace(plain, name=sent.name, away_bytes=100 + 30)
    first, *others = BLOCK.operators
    operators = (dataclasses.replace(first, portable=False), *others)
    block = dataclasses.replace(BLOCK, operators=operators)
    assert block.mode(sent.name).away_bytes == 30


def test_a_backward_takes_nothing_above_what_it_frees():
    block = dataclasses.replace(BLOCK, backward=(Moment(10, ()),))
    assert block.mode("keep(0)").backward_working_bytes == 0
    assert block.mode("all").backward_working_bytes == 10


def test_a_measured_recompute_scales_the_operators():
    longer = BLOCK.lasting(23.0)
    assert [op.time_ps for op in longer.operators] == [6 * PS, 4 * PS, 10 * PS, 2 * PS]
    assert (longer.fixed_ps, longer.recompute_s, BLOCK.recompute_s) == (PS, 23.0, 11.5)
    assert BLOCK.lasting(17.25).fixed_ps == 0.75 * PS
    assert [op.time_ps for op in BLOCK.lasting(17.25).operators][:2] == [4.5 * PS, 3 * PS]
    nothing = BLOCK.lasting(0.0)
    assert nothing.recompute_s == 0
    assert nothing.lasting(5.0) == nothing


@pytest.mark.parametrize("kind", [Mode, BlockOperators, BlockCost, ChainProfile, Shared, Solution])
def test_what_is_not_said_is_nothing(kind):
    """But for the end of a link, and for memory that is counted to the byte."""
    said = {"slot_bytes": 1, "link_tier": "host"}
    given = [f for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING]
    assert given
    for field in given:
        assert field.default == said.get(field.name, type(field.default)())


MODULES = [
    importlib.import_module(f"{package.__name__}.{module.name}")
    for package in (schedules, solvers)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for module in MODULES
        for kind in vars(module).values()
        if dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
    ],
)
def test_costs_and_answers_are_values(kind):
    with pytest.raises(dataclasses.FrozenInstanceError):
        object.__new__(kind).name = "changed"


@pytest.mark.parametrize("kind", [Mode, BlockCost, ChainProfile, Shared])
def test_what_has_many_figures_is_made_by_name(kind):
    with pytest.raises(TypeError, match="positional"):
        kind(*range(7))
