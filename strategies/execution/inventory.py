"""What some dictionaries hold: looked at before and after each run of a block.

Seventeen attributes of every module are PyTorch's own, and no forward replaces them. They are left
out: to look at a value costs time wherever it lies, and that shows where blocks are small.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat
from typing import Any

from torch import nn

Values = dict[str, Any]
Others = list[tuple[Values, Values, list[str]]]
Comparison = Callable[[Sequence[Values], Sequence[Any]], bool]
OWN = frozenset(nn.Module().__dict__) - {"training"}
MISSING = object()


class Inventory:
    """Some dictionaries, and the names that each has.

    Args:
        places: the dictionaries.
        without: for each, names that it has, and that are left out.
        fixed: how many of the first are looked at alone, and never told as `others`.
    """

    def __init__(
        self,
        places: Sequence[Values],
        without: Iterable[frozenset[str]] = repeat(frozenset()),
        fixed: int = 0,
    ) -> None:
        self.places, self.fixed = places, fixed
        left_out = zip(without, places, strict=False)
        self.without = [names & place.keys() for names, place in left_out]
        pairs = zip(places, self.without, strict=True)
        self.names = [_several([name for name in p if name not in out]) for p, out in pairs]
        self.sizes = list(map(len, places))
        self.filled = [place for names, place in zip(self.names, places, strict=True) if names]
        self.pickers = [_picker(names) for names in self.names if names]

    def look(self) -> list[Any] | None:
        """All values, one after the other; ``None`` if there are other names by now."""
        if self.sizes != list(map(len, self.places)):
            return None
        try:
            return list(chain.from_iterable(map(operator.call, self.pickers, self.filled)))
        except KeyError:
            return None

    def holds(self, values: Sequence[Any]) -> bool:
        """Whether all values are these, one by one."""
        try:
            return self._comparison(self.places, values)
        except KeyError:
            return False

    @functools.cached_property
    def _comparison(self) -> Comparison:
        return _written_out(tuple(self.names), tuple(self.sizes))

    def others(self, then: Sequence[Any]) -> Others:
        """The places that hold something else by now, what they held, and the names."""
        rest = iter(then)
        held = [{name: next(rest) for name in names} for names in self.names]
        now = [
            {name: value for name, value in place.items() if name not in left_out}
            for place, left_out in zip(self.places, self.without, strict=True)
        ]
        names = map(_changed, now, held)
        found = zip(self.places, held, names, strict=True)
        return [other for other in list(found)[self.fixed :] if other[2]]


def _several(names: Sequence[str]) -> tuple[str, ...]:
    """A single name twice: of one alone, ``itemgetter`` gives no tuple."""
    return (*names, *names) if len(names) == 1 else tuple(names)


@functools.lru_cache(maxsize=1024)
def _picker(names: tuple[str, ...]) -> Callable[[Values], tuple[Any, ...]]:
    """One for all places with these names: what all blocks use stays near at hand."""
    return operator.itemgetter(*names)


@functools.lru_cache(maxsize=1024)
def _written_out(names: tuple[tuple[str, ...], ...], sizes: tuple[int, ...]) -> Comparison:
    """Of dictionaries with these names and of these sizes to values, without a loop.

    Three times for each run of a block: a third of what `map` takes, half of a small block's
    overhead. Names are no part of the source.
    """
    keys: dict[str, Any] = {
        f"k{number}": name for number, name in enumerate(chain.from_iterable(names))
    }
    places = [f"p{number}" for number in range(len(sizes))]
    owners = [place for place, each in zip(places, names, strict=True) for _ in each]
    tests = [f"len({place}) == {size}" for place, size in zip(places, sizes, strict=True)]
    tests += [f"{place}[k{number}] is v{number}" for number, place in enumerate(owners)]
    source = f"""
def compare(places, values):
    [{", ".join(places)}] = places
    [{", ".join(f"v{number}" for number in range(len(owners)))}] = values
    return {" and ".join(tests) or True}
"""
    exec(source, keys)  # noqa: S102 - of numbers alone, as dataclasses write their methods
    comparison: Comparison = keys["compare"]
    return comparison


def _changed(now: Values, then: Values) -> list[str]:
    """The names under which there is something else; not a parameter that FSDP gathers."""
    pairs = {name: (then.get(name, MISSING), now.get(name, MISSING)) for name in {**then, **now}}
    return [n for n, (a, b) in pairs.items() if a is not b and _is_split(a) == _is_split(b)]


def _is_split(value: Any) -> bool:
    return type(value).__name__ == "DTensor"
