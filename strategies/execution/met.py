"""What a block's forward met, and how its recomputes meet it again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from strategies.execution.held import put_by, taken
from strategies.execution.inventory import MISSING, Inventory, Others, Values
from strategies.execution.places import (
    SIMPLE,
    Contents,
    Make,
    contents,
    filled,
    has_tensors,
    reachable,
    written_to,
)
from strategies.execution.randoms import Marks, Restore, Shared, is_generator, own_state
from strategies.execution.settings import Settings
from strategies.execution.statistics import FrozenStatistics
from strategies.execution.tensors import Spec, unflat
from strategies.storage.changes import written_in_place

Pair = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]
"""Contexts of forward and of recompute."""
_NOTHING = contextlib.nullcontext()


@dataclasses.dataclass(slots=True, eq=False)
class Special:
    """What few forwards meet.

    Attributes:
        arguments: an inventory of the attributes of objects among the arguments.
        given: what those were.
        makers: dictionaries, and for some names how to make what was there.
        generators: that may have been drawn from, and how to put them back.
        objects: among the arguments that hold tensors, and how often those had been written to.
        norms: whose statistics are frozen in a recompute.
        replaced: the places where the forward put something else, what they held, and the names.
        contents: containers among the attributes of arguments, until the forward is over.
        places: that may change without being replaced, as they were, until then.
        parameters: whose, their names, themselves, and how often they had been written to, of a
            block that was not examined by then; until the forward is over.
        settings: of the whole process, of such a block.
    """

    arguments: Inventory | None = None
    given: Sequence[Any] = ()
    makers: Sequence[tuple[Values, dict[str, Make]]] = ()
    generators: Sequence[tuple[Any, Restore]] = ()
    objects: Sequence[tuple[Any, int]] = ()
    norms: Sequence[nn.Module] = ()
    replaced: Others = dataclasses.field(default_factory=list)
    contents: Sequence[tuple[Values, Contents]] = ()
    places: Sequence[Any] = ()
    parameters: Sequence[tuple[nn.Module, str, Tensor, int]] = ()
    settings: Settings | None = None

    @classmethod
    def of(cls, leaves: Sequence[Any]) -> Special:
        """Of arguments that are not all simple."""
        arguments = Inventory(reachable(leaves))
        return cls(
            arguments,
            arguments.look() or (),
            generators=[(leaf, own_state(leaf)) for leaf in leaves if is_generator(leaf)],
            objects=[(leaf, written_to(leaf)) for leaf in leaves if has_tensors(leaf)],
            contents=[(values, contents(values)) for values in arguments.places],
        )

    def complete(self) -> None:
        """Add the containers of the arguments' attributes that the forward filled or emptied."""
        changes = ((values, filled(before)) for values, before in self.contents)
        self.makers = [*self.makers, *(each for each in changes if each[1])]
        self.contents = self.places = self.parameters = ()

    def __bool__(self) -> bool:
        """Whether a recompute has anything to do with it, whatever changed since."""
        kept = (self.makers, self.generators, self.objects, self.norms, self.replaced)
        return any(kept) or (self.settings is not None and self.settings.are_others())


class Met:
    """What a block's forward met; the context of its recomputes, which meet it again.

    Attributes:
        inventory: of attributes and buffers.
        values: what they were: most forwards change none of them, and one look says so.
        shared: the generators that all share, if the forward drew from them; until it is over,
            where they were.
        special: what few forwards meet.
        versions: how often each leaf of the arguments had been written to, until then.
        written: which leaves of the arguments it wrote to.
        more: further contexts of forward and of recompute, innermost.
        entered: what ends the recompute that runs, and those around it.
        function: what is to run again.
        spec: how the leaves of its arguments lie.
        kept: those leaves; ``None`` if PyTorch's checkpoint is to keep them.
    """

    __slots__ = (
        *("entered", "function", "inventory", "kept", "more", "shared", "spec", "special"),
        *("values", "versions", "written"),
    )

    def __init__(self, inventory: Inventory, values: Sequence[Any], leaves: Sequence[Any]) -> None:
        self.inventory, self.values = inventory, values
        self.shared: Shared | Marks | None = None
        simple = SIMPLE.issuperset(map(type, leaves))
        self.special = None if simple else Special.of(leaves)
        self.versions: Sequence[int] = list(map(written_to, leaves))
        self.written: Sequence[int] = ()
        self.more: Pair | None = None
        self.entered: tuple[contextlib.ExitStack | None, Any] | None = None

    def keep(self, function: Callable[..., Any], leaves: Sequence[Any], spec: Spec | None) -> None:
        """Keep what is to run again, with leaves that are given then if they are not kept here."""
        self.function, self.spec, self.kept = function, spec, put_by(leaves)

    def __call__(self, *leaves: Any) -> None:
        """Run it again."""
        given = leaves if self.kept is None else taken(self.kept)
        if self.spec is None:
            self.function(*given)
        else:
            args, kwargs = unflat(given, self.spec)
            self.function(*args, **kwargs)

    def contexts(self) -> Pair:
        """``context_fn`` of one checkpoint."""
        return self.more[0] if self.more else _NOTHING, self

    def __enter__(self) -> None:
        """A recompute begins; a graph that is retained is recomputed each time."""
        self.entered = self.restore(), self.entered
        if self.more:
            self.more[1].__enter__()

    def __exit__(self, *exception: Any) -> None:
        """Put back what there is now."""
        assert self.entered is not None
        stack, self.entered = self.entered
        try:
            if self.more:
                self.more[1].__exit__(*exception)
        finally:
            if stack is not None:
                stack.close()

    def cut(self) -> bool:
        """Let go of the graphs of earlier steps, which would be kept from step to step.

        Returns:
            Whether the forward replaced anything.
        """
        others = self.others()
        if not others:
            return False
        special = self.special = self.special if self.special is not None else Special()
        special.replaced = others
        ends: dict[int, Tensor] = {}
        for _, held, names in others:
            for name in names:
                value = held.get(name)
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    held[name] = ends[id(value)] = value.detach().requires_grad_()
        if ends:
            self.values = [ends.get(id(value), value) for value in self.values]
            special.given = [ends.get(id(value), value) for value in special.given]
        return True

    def others(self) -> Others:
        """The places that hold something else by now, what they held, and the names."""
        others = [] if self.inventory.holds(self.values) else self.inventory.others(self.values)
        if self.special is None or self.special.arguments is None:
            return others
        return others + self.special.arguments.others(self.special.given)

    def restore(self) -> contextlib.ExitStack | None:
        """For a recompute: everything as it was; the stack makes it as it is now."""
        now = self.others()
        if not (now or self.special or self.shared):
            return None
        stack, special = contextlib.ExitStack(), self.special or Special()
        # What the forward replaced the recompute will replace again.
        for values, held, names in (*special.replaced, *now):
            _exchange(stack, values, {name: held.get(name, MISSING) for name in names})
        if any(written_to(leaf) != then for leaf, then in special.objects):
            stack.close()
            raise written_in_place("a tensor in an object that a block was given")
        for values, makers in special.makers:
            _exchange(stack, values, {name: make() for name, make in makers.items()})
        for generator, restore in special.generators:
            stack.callback(own_state(generator))
            restore()
        # A block that takes a gradient in its forward is recomputed before that is over: by then,
        # of one that is known not to draw, no states are kept.
        if isinstance(self.shared, Shared) and self.shared.states is not None:
            stack.callback(Shared(full=True).restore)
            self.shared.restore()
        if special.norms:
            stack.enter_context(FrozenStatistics(special.norms))
        if special.settings is not None:
            special.settings.restore(stack)
        return stack


def _exchange(stack: contextlib.ExitStack, values: Values, others: Values) -> None:
    """Put others in place, until the stack ends."""
    stack.callback(_put, values, {name: values.get(name, MISSING) for name in others})
    _put(values, others)


def _put(values: Values, some: Values) -> None:
    for name, value in some.items():
        if value is MISSING:
            values.pop(name, None)
        else:
            values[name] = value
