"""A schedule is one value: what is printed reads back as what was solved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.schedules import plan as plans
from strategies.schedules.modes import keep
from strategies.schedules.schedule import ALL, HOST, Schedule

MODES = [ALL, "core", "products", keep([3]), keep([2, 5, 31]), "compiled(50)", "partitioned(0)"]
AWAY = (keep([3], [3], "{}"), keep([2, 5, 31], [2, 31], "{}"))


@st.composite
def nodes(draw, indices, depth=0):
    """A random nested plan over consecutive blocks."""
    found, begin = [], 0
    while begin < len(indices):
        end = draw(st.integers(begin + 1, len(indices)))
        part = indices[begin:end]
        if depth < 3 and draw(st.booleans()):
            found.append(draw(nodes(part, depth + 1)))
        else:
            found += part
        begin = end
    return tuple(found)


@st.composite
def schedules(draw):
    plan = draw(nodes(list(range(draw(st.integers(1, 9))))))
    tier = draw(st.sampled_from(["host", "disk"]))
    known = [*MODES, *(mode.replace("{}", tier) for mode in AWAY)]
    bare = {node for node in plan if isinstance(node, int)}
    count = sum(1 for node in plan for _ in plans.leaves(node))
    modes = tuple(draw(st.sampled_from(known)) if i in bare else ALL for i in range(count))
    starts = [plans.first(node) for node in plan if isinstance(node, tuple)]
    offloaded = draw(st.frozensets(st.sampled_from(starts))) if starts else frozenset()
    return Schedule(plan, modes, offloaded, tier)


@given(schedules())
def test_what_is_printed_is_read_back(schedule):
    assert Schedule.parse(schedule.render()) == schedule
    assert Schedule.parse(schedule.render()).render() == schedule.render()
    assert hash(Schedule.parse(schedule.render())) == hash(schedule)


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("0 1 2", Schedule((0, 1, 2))),
        ("0:core 1 [2 3]", Schedule((0, 1, (2, 3)), ("core", ALL, ALL, ALL))),
        ("[0]@host 1", Schedule(((0,), 1), (), frozenset({0}))),
        ("[0] [1]@disk", Schedule(((0,), (1,)), (), frozenset({1}), "disk")),
        ("[0:compiled(100)] 1", Schedule(((0,), 1), ("compiled(100)", ALL))),
        ("[[0] 1]@disk 2:keep(3,31)", Schedule(
            (((0,), 1), 2), (ALL, ALL, "keep(3,31)"), frozenset({0}), "disk"
        )),
        ("0:keep(3,31@disk) [1]", Schedule((0, (1,)), ("keep(3,31@disk)", ALL), tier="disk")),
        ("0:keep(3@host) [1]@host", Schedule(
            (0, (1,)), ("keep(3@host)", ALL), frozenset({1})
        )),
    ],
)  # fmt: skip
def test_texts(text, schedule):
    assert Schedule.parse(text) == schedule
    assert schedule.render() == text
    assert Schedule.parse(f"  {text.replace(' ', '   ')} ") == schedule


def test_equal_schedules_are_equal_values():
    assert Schedule((0, 1), (ALL, ALL)) == Schedule((0, 1))
    assert Schedule(((0,), 1), (), frozenset(), "disk") == Schedule(((0,), 1))
    assert Schedule(((0,), 1)).tier == HOST


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 [1", "a bracket is not closed in schedule '0 [1'"),
        ("0] 1", "a bracket closes what none opened"),
        ("0 2", "must list the blocks 0 to 1 once each, in order"),
        ("0 []", "holds an empty recompute group"),
        ("[0 [1]@host] 2", "@host follows no top-level group"),
        ("[0]@host [1]@disk", "a schedule has one tier, not disk and host"),
        ("[0]@host 1:keep(3@disk)", "a schedule has one tier, not disk and host"),
        ("0:keep(3@host) 1:keep(3@disk)", "a schedule has one tier, not disk and host"),
        ("[0:keep(3@host)]", r"block 0 .* runs in mode all, not keep\(3@host\)"),
        ("0:keep(3@)", "a schedule holds blocks"),
        ("[0:core 1]", "block 0 is in a recompute group and runs in mode all, not core"),
        ("[0:compiled(50) 1]", r"block 0 .* runs in mode all, not compiled\(50\)"),
        ("0core", "a schedule holds blocks, brackets, :modes and @tiers"),
        ("0 x", "not 'x'"),
        ("0@host", "not '0@host'"),
    ],
)
def test_what_is_no_schedule_is_refused(text, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        Schedule.parse(text)


def test_a_long_schedule_is_read():
    """Of more signs and blocks than Python has numbers at hand."""
    schedule = Schedule((tuple(range(300)), *range(300, 400)), (), frozenset({0}), "disk")
    assert Schedule.parse(schedule.render()) == schedule
    assert plans.parse(plans.render(schedule.plan)) == schedule.plan


@pytest.mark.parametrize(
    ("offloaded", "named"), [({1}, 1), ({0, 1, 3}, 1), ({4}, 4), ({2, 3}, 3), ({2}, None)]
)
def test_the_first_that_cannot_leave_is_named(offloaded, named):
    plan = ((0, 1), (2, (3,)), 4)
    if named is None:
        assert Schedule(plan, (), frozenset(offloaded)).offloaded == offloaded
        return
    with pytest.raises(ValueError, match=f"block {named} begins no top-level group"):
        Schedule(plan, (), frozenset(offloaded))


def test_a_schedule_is_cut_where_it_straddles_a_border():
    schedule = Schedule(((0, 1), 2), ("all", "all", "core"), frozenset({0}), "disk")
    assert schedule.split((1,)) == Schedule(((0,), (1,), 2), *parts(schedule))
    assert [schedule.mode(index) for index in range(3)] == [ALL, ALL, "core"]


def parts(schedule):
    return schedule.modes, schedule.offloaded, schedule.tier


def test_what_leaves_the_device_is_known():
    assert not Schedule.parse("0:keep(3) [1]").sends
    assert Schedule.parse("0:keep(3) [1]@host").sends
    assert Schedule.parse("0:keep(3@disk) [1]").sends
    assert Schedule.parse("0:keep(3@disk) [1]").tier == "disk"


def test_a_schedule_has_a_mode_for_every_block():
    with pytest.raises(ValueError, match="1 modes for 2 blocks"):
        Schedule((0, 1), ("core",))


def test_only_top_level_groups_leave():
    with pytest.raises(ValueError, match="block 1 begins no top-level group"):
        Schedule(((0, 1), 2), (), frozenset({0, 1}))
