"""What a block's forward met, and how its recomputes meet it again."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from strategies.execution.places import (
    SIMPLE,
    Contents,
    Make,
    Values,
    contents,
    filled,
    has_tensors,
    reachable,
    values_of,
    written_to,
)
from strategies.execution.randoms import Restore, Shared, is_generator, own_state
from strategies.storage.changes import written_in_place

_MISSING = object()


class Met:
    """What a block's forward met; met again by each of its recomputes.

    Attributes:
        places: dictionaries of attributes and buffers.
        names: that each had.
        values: all that they held, one after the other: most forwards change none of it, and one
            look over everything says so.
        makers: dictionaries, and for some names how to make what was there.
        generators: that may have been drawn from, and how to put them back.
        shared: the generators that all share, if the forward drew from them.
        objects: among the arguments that hold tensors, and how often those had been written to.
        written: which leaves of the arguments it wrote to.
        norms: whose statistics are frozen in a recompute.
        contents: containers among the attributes of arguments, until the forward is over.
        special: places that may change without being replaced, until then.
        versions: how often each leaf of the arguments had been written to, until then.
        replaced: the places where the forward put something else, what they held, and the names.
    """

    def __init__(
        self,
        places: Sequence[Values],
        names: Sequence[tuple[str, ...]],
        norms: Sequence[nn.Module],
        leaves: Sequence[Any],
    ) -> None:
        self.places, self.names = places, names
        self.values = values_of(places)
        self.makers: list[tuple[Values, dict[str, Make]]] = []
        self.generators: list[tuple[Any, Restore]] = []
        self.objects: list[tuple[Any, int]] = []
        self.shared: Shared | None = None
        self.written: list[int] = []
        self.norms = norms
        self.contents: list[tuple[Values, Contents]] = []
        self.special: list[Any] = []
        self.versions: list[int] = []
        self.replaced: list[tuple[Values, Values, list[str]]] = []
        if not SIMPLE.issuperset(map(type, leaves)):
            objects = reachable(leaves)
            self.places, self.names = [*places, *objects], [*names, *map(tuple, objects)]
            self.values += values_of(objects)
            self.contents = [(values, contents(values)) for values in objects]
            self.generators = [(leaf, own_state(leaf)) for leaf in leaves if is_generator(leaf)]
            self.objects = [(leaf, written_to(leaf)) for leaf in leaves if has_tensors(leaf)]

    def complete(self) -> None:
        """Add the containers of the arguments' attributes that the forward filled or emptied."""
        self.special, self.versions = [], []
        for values, before in self.contents:
            if changed := filled(before):
                self.makers.append((values, changed))
        self.contents = []

    def cut(self) -> bool:
        """Let go of the graphs of earlier steps, which would be kept from step to step.

        Returns:
            Whether the forward replaced anything.
        """
        self.replaced = self.others()
        ends: dict[int, Tensor] = {}
        for _, held, names in self.replaced:
            for name in names:
                value = held.get(name)
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    held[name] = ends[id(value)] = value.detach().requires_grad_()
        if ends:
            self.values = tuple(ends.get(id(value), value) for value in self.values)
        return bool(self.replaced)

    def others(self) -> list[tuple[Values, Values, list[str]]]:
        """The places that hold something else by now, what they held, and the names."""
        values = values_of(self.places)
        if len(values) == len(self.values) and all(map(operator.is_, values, self.values)):
            return []
        rest = iter(self.values)
        held = [dict(zip(names, rest, strict=False)) for names in self.names]
        others = [(now, was, _names(now, was)) for now, was in zip(self.places, held, strict=True)]
        return [other for other in others if other[2]]

    def restore(self) -> contextlib.ExitStack | None:
        """For a recompute: everything as it was; the stack makes it as it is now."""
        others = self.others()
        kept = (self.replaced, self.makers, self.generators, self.objects, self.shared)
        if not (others or any(kept)):
            return None
        stack = contextlib.ExitStack()
        for now, held, names in (*self.replaced, *others):  # which the recompute will replace again
            _exchange(stack, now, {name: held.get(name, _MISSING) for name in names})
        if any(written_to(leaf) != then for leaf, then in self.objects):
            stack.close()
            raise written_in_place("a tensor in an object that a block was given")
        for values, makers in self.makers:
            _exchange(stack, values, {name: make() for name, make in makers.items()})
        for generator, restore in self.generators:
            stack.callback(own_state(generator))
            restore()
        # A block that takes a gradient in its forward is recomputed before that is over: by then,
        # of one that is known not to draw, no states are kept.
        if self.shared is not None and self.shared.states is not None:
            stack.callback(Shared(full=True).restore)
            self.shared.restore()
        return stack


def _names(now: Values, then: Values) -> list[str]:
    """The names under which there is something else; not a parameter that FSDP gathers."""
    pairs = {name: (then.get(name, _MISSING), now.get(name, _MISSING)) for name in {**then, **now}}
    return [n for n, (a, b) in pairs.items() if a is not b and _is_split(a) == _is_split(b)]


def _is_split(value: Any) -> bool:
    return type(value).__name__ == "DTensor"


def _exchange(stack: contextlib.ExitStack, values: Values, others: Values) -> None:
    """Put others in place, until the stack ends."""
    stack.callback(_put, values, {name: values.get(name, _MISSING) for name in others})
    _put(values, others)


def _put(values: Values, some: Values) -> None:
    for name, value in some.items():
        if value is _MISSING:
            values.pop(name, None)
        else:
            values[name] = value
