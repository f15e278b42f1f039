"""The parts of `hybrid`'s table, by hand: what waits for the link, and what a group may cost."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from strategies.solvers import hybrid_table

BLOCKS = 3


def interpreted(name):
    """A function of the table, as Python: to compile it takes longer than to run it."""
    function = getattr(hybrid_table, name)
    return getattr(function, "py_func", function)


def task(transfer_s=(10.0, 20.0, 30.0), weight=0.25):
    """Forward takes 1, 2 and 3 s, backward 2, 3 and 4 s."""
    roads = SimpleNamespace(
        down=np.array([4, 5, 6]),
        transfer_s=np.array(transfer_s),
        forward_s=np.array([0.0, 1.0, 3.0, 6.0]),
        backward_s=np.array([0.0, 2.0, 5.0, 9.0]),
    )
    numbers = SimpleNamespace(forward_s=np.ones(BLOCKS))
    return SimpleNamespace(roads=roads, numbers=numbers, weight=weight)


@pytest.mark.parametrize(
    ("earlier", "begin", "last", "stall_s"),
    [
        (-1, 0, 0, 0.0),
        (0, 1, 1, (10 - 1) + 0.75 * (10 - 3)),
        (0, 1, 2, (10 - 1) + 0.75 * (10 - 7)),
        (0, 2, 2, (10 - 3) + 0.75 * (10 - 7)),
        (1, 2, 2, (20 - 2) + 0.75 * (20 - 4)),
    ],
)
def test_what_waits_when_a_boundary_follows_another(earlier, begin, last, stall_s):
    assert interpreted("stall_s")(task(), earlier, begin, last) == stall_s


def test_nothing_waits_for_a_fast_link():
    assert interpreted("stall_s")(task((0.5, 0.5, 0.5)), 0, 1, 1) == 0.0


@pytest.mark.parametrize(("begin", "stall_s"), [(0, 10 + 4), (1, 20 + 15), (2, 30 + 27)])
def test_the_last_boundary_leaves_while_forward_goes_on_and_comes_while_nothing_does(
    begin, stall_s
):
    assert interpreted("last_stall_s")(task(), begin) == stall_s


def test_the_last_boundary_of_a_fast_link_comes_while_nothing_goes_on():
    assert interpreted("last_stall_s")(task((0.5, 0.5, 0.5)), 0) == 0.5


@pytest.mark.parametrize(
    ("road", "share", "slots"),
    [
        *[(0, 1.0, 0), (1, 0.25, 0), (2, 0.25, 0), (3, 0.25, 0)],
        *[(4, 1.0, 4), (5, 1.0, 5), (6, 1.0, 6)],
    ],
)
def test_what_a_road_costs(road, share, slots):
    """Repeated work counts for less while a boundary is on it; the last one is alive in forward."""
    assert interpreted("share")(task(), road) == share
    assert interpreted("leaving_slots")(task(), road) == slots


def test_a_group_takes_slots_and_time():
    """Of 6 slots, it needs 2; 1 is its own inside, and 3 less are left for the rest."""
    row = np.full(6, math.inf)
    row[4:] = 50.0, 40.0  # of another choice, which was better once
    within, rest = np.array([9.0, 8.0, 7.0, 6.0]), np.array([100.0, 90.0, 30.0, 70.0, 60.0, 50.0])
    interpreted("_group")(row, within, rest, (2, 1, 3), (0.5, 2.0))
    assert row.tolist() == [
        *[math.inf, math.inf, math.inf],  # too little for the rest
        100 + 0.5 * 7 + 2,
        50,
        30 + 0.5 * 6 + 2,  # inside there is no more room than the table knows of
    ]


def test_a_group_may_leave_more_room_than_there_is():
    """A boundary that is gone takes none: what is taken is below zero."""
    row = np.full(3, math.inf)
    interpreted("_group")(row, np.zeros(3), np.array([5.0, 4.0, 3.0]), (1, 0, -2), (1.0, 0.0))
    assert row.tolist() == [math.inf, 3.0, 3.0]


@pytest.fixture
def groups(monkeypatch):
    """What the groups from block 1 are said to cost, by what lies on the road; in that order."""
    for name, function in list(vars(hybrid_table).items()):
        monkeypatch.setattr(hybrid_table, name, getattr(function, "py_func", function))
    calls = []

    def note(row, within, rest, fits, costs):
        calls.append((int(row[0]), int(within[0]), int(rest[0]), fits, costs))

    monkeypatch.setattr(hybrid_table, "_group", note)
    roads, planes, ends = np.ogrid[: 2 * BLOCKS + 1, :2, : BLOCKS + 1]
    table = (100 * roads + 10 * planes + ends)[..., None]
    whole = task()
    whole.roads.up, whole.roads.may_leave = np.array([7, 8, 9]), np.array([False, True, True])
    whole.inside = (100 * np.arange(2)[:, None] + np.arange(16))[..., None]
    vars(whole.numbers).update(
        reach=np.array([1, 2, 2]),
        unsaved_first=np.array([1, 2, 3]),
        unsaved_next=np.array([2, 4, 6]),
        group_taken=np.array([1, 1, 2]),
        rows=np.arange(16).reshape(4, 4),
        around_bytes=np.array([3, 2, 1, 0]),
        group_own_bytes=1,
        slot_bytes=1,
    )

    def run(road, held, begin=1):
        hybrid_table._groups(table, whole, road, held, begin)
        return calls

    return run


def test_groups_when_no_boundary_has_left(groups):
    """It stays; it leaves and another will; it is the last to leave: then its room is free."""
    assert groups(0, 0) == [
        (1, 105, 2, (2, 3, 1), (1.0, 0.0)),
        (1, 105, 202, (2, 3, 1), (1.0, 0.0)),
        (1, 105, 502, (2, 3, 1 - 8), (1.0, 35.0)),
        (1, 106, 3, (6, 2, 2), (1.0, 0.0)),
        (1, 106, 203, (6, 2, 2), (1.0, 0.0)),
        (1, 106, 503, (6, 2, 2 - 8), (1.0, 35.0)),
    ]


def test_groups_behind_a_boundary_on_the_road(groups):
    """That one is fetched when this one leaves: forward has its room free."""
    stalls_s = (14.25, 9 + 0.75 * 3)
    assert groups(1, 0) == [
        (101, 105, 102, (2, 3, 1), (0.25, 0.0)),
        (101, 105, 202, (2 - 7, 3, 1 - 7), (0.25, stalls_s[0])),
        (101, 105, 502, (2 - 7, 3, 1 - 7 - 8), (0.25, stalls_s[0] + 35)),
        (101, 106, 103, (6, 2, 2), (0.25, 0.0)),
        (101, 106, 203, (6 - 7, 2, 2 - 7), (0.25, stalls_s[1])),
        (101, 106, 503, (6 - 7, 2, 2 - 7 - 8), (0.25, stalls_s[1] + 35)),
    ]


def test_groups_behind_the_last_boundary_to_leave(groups):
    """Forward needs the room that it takes until it is gone."""
    assert groups(4, 0) == [
        (401, 105, 402, (2 + 4, 3, 1), (1.0, 0.0)),
        (401, 106, 403, (6 + 4, 2, 2), (1.0, 0.0)),
    ]


def test_a_boundary_that_is_held_besides_stays(groups):
    assert groups(0, 1) == [
        (11, 105, 2, (2, 3, 1), (1.0, 0.0)),
        (11, 106, 3, (6, 2, 2), (1.0, 0.0)),
    ]


def test_a_boundary_that_may_not_leave_stays_and_no_group_reaches_across_a_border(groups):
    assert groups(0, 0, begin=0) == [
        (0, 100, 1, (1, 4, 1), (1.0, 0.0)),
        (0, 101, 2, (4, 3, 1), (1.0, 0.0)),
    ]


@pytest.mark.parametrize(("blocks", "dtype"), [(50, np.float64), (51, np.float32)])
def test_nothing_fits_into_an_empty_table(blocks, dtype):
    table = hybrid_table.empty(2, blocks, 3)
    assert table.shape == (2 * blocks + 1, 2, blocks + 1, 4)
    assert table.dtype == dtype
    assert np.isinf(table).all()
