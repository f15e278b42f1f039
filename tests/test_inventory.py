"""What some dictionaries hold, told from what they held."""

from __future__ import annotations

import pytest

from strategies.execution.inventory import Inventory

PLACES = ({"a": 1000.0, "not an identifier": None}, {}, {"only": [1]}, {"x": 1, "y": 2, "z": 3})


def _copies() -> list[dict[str, object]]:
    return [dict(place) for place in PLACES]


@pytest.mark.parametrize("count", range(len(PLACES) + 1))
def test_what_did_not_change_is_held(count):
    inventory = Inventory(_copies()[:count])
    values = inventory.look()
    assert values is not None
    assert inventory.holds(values)


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [
        (0, "a", float("1000")),  # equal, and another object
        (0, "not an identifier", False),
        (1, "came", None),
        (2, "only", [1]),
        (3, "y", 1),
        (3, "came", 4),
    ],
)
def test_what_is_put_there_is_seen(number, name, value):
    places = _copies()
    inventory = Inventory(places)
    values = inventory.look() or []
    places[number][name] = value
    assert not inventory.holds(values)


def test_names_are_seen_where_values_are_the_same():
    places = _copies()
    inventory = Inventory(places)
    values = inventory.look() or []
    places[3]["other"] = places[3].pop("z")
    assert not inventory.holds(values)
    assert inventory.look() is None


def test_of_places_alike_each_is_its_own():
    places = [{"a": 1, "b": 2}, {"a": 1, "b": 2}]
    inventory = Inventory(places, [frozenset(), frozenset({"b"})])
    values = inventory.look() or []
    assert inventory.holds(values)
    places[1]["b"] = 3  # left out
    assert inventory.holds(values)
    places[1]["a"] = 3
    assert not inventory.holds(values)
    assert [names for _, _, names in inventory.others(values)] == [["a"]]
