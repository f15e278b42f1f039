"""What a block's forward changes besides making its output, so that its recompute can be the same.

A recompute must meet what forward met, and leave what it finds: buffers that are written or
replaced, parameters that are replaced (`torch.func.functional_call`), counters, caches and lists
among the modules' attributes, generators of random numbers. What is another when the recompute
begins, because the forward or anybody else changed it since, is put back for as long; afterwards
everything is as it was. Statistics of batch norms, on which no output depends in training, are
frozen instead (`strategies.execution.statistics`).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _NormBase

from strategies.execution.errors import Unsupported
from strategies.execution.examined import is_examined
from strategies.execution.inventory import OWN, Inventory
from strategies.execution.late import writes_late
from strategies.execution.met import Met, Special
from strategies.execution.places import (
    Make,
    Place,
    contents,
    dictionaries,
    filled,
    has_state,
    written_to,
)
from strategies.execution.randoms import READABLE, Marks, Shared, marks, own_state
from strategies.execution.settings import SCOPED, Settings
from strategies.execution.stand_in import StandIn
from strategies.execution.tensors import has_version, leaves_of
from strategies.execution.undo import Undo
from strategies.execution.written import WRITTEN

_DRAWING: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
"""Whether a block draws from the generators that all share, as its first forward showed."""

_NONE: frozenset[str] = frozenset()


class BlockState:
    """Everything that a block's modules hold, and what its forwards change of it.

    Attributes:
        root: the block.
        inventory: of where all of it is.
        objects: modules and what else has attributes of its own among the values, and where.
        special: the places that hold what can change without being replaced.
        draws: whether the block may draw from the generators that all share.
        ran: whether the block ran at all.
        is_examined: whether it ran again, and computed what it had computed.
        is_exact: whether what runs again gets what it got, to the bit.
        is_late: whether an operator of it writes to what autograd saved; ``None``: unknown yet.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.draws, self.ran = _DRAWING.get(root, True), False
        self.is_examined, self.is_exact = False, True
        self._forget()

    def _forget(self) -> None:
        self.inventory = Inventory(())
        self.objects: list[tuple[int, Any]] = []
        self.special: list[Place] = []
        self.norms: list[nn.Module] = []
        self.values: list[Any] | None = None  # None: look for everything
        self.kinds: list[type] = []
        self.is_late: bool | None = None

    def __getstate__(self) -> dict[str, Any]:
        kept = ("root", "draws", "ran", "is_examined", "is_exact")
        return {name: vars(self)[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    @property
    def unexamined(self) -> nn.Module | None:
        """The block, until it has run again and computed what it had computed."""
        self.is_examined = self.is_examined or is_examined(self.root)
        return None if self.is_examined else self.root

    def look(self) -> Sequence[Any]:
        """What all of it is; where it is, if modules or values of other kinds came or went."""
        if self.values is None or not self.inventory.holds(self.values):
            values = self.inventory.look()
            if self.values is None or values is None or not self._is_alike(values):
                self._find()
                values = self.inventory.look() or []
                self.kinds = list(map(type, values))
                self.objects = [(n, value) for n, value in enumerate(values) if _has_parts(value)]
            self.values, self.is_late = values, None
        return self.values

    def _is_alike(self, values: Sequence[Any]) -> bool:
        """Whether there are values of the same kinds, and the same objects."""
        same = all(values[number] is value for number, value in self.objects)
        return same and list(map(type, values)) == self.kinds

    def _find(self) -> None:
        modules = list(self.root.modules())
        seen: dict[int, Place] = {}
        for module in modules:
            for values in dictionaries(module):
                seen.setdefault(id(values), Place.of(module, values))
        trees = [module._modules for module in modules]
        places = [*trees, *(place.values for place in seen.values())]
        own = [OWN if place.is_module else _NONE for place in seen.values()]
        places += [module._parameters for module in modules if module._parameters]
        without = chain(repeat(_NONE, len(trees)), own, repeat(_NONE))
        self.inventory = Inventory(places, without, len(trees))
        self.special = [p for p in seen.values() if p.tensors or p.containers or p.generators]
        self.special += filter(None, map(_written_parameters, modules))
        self.norms = [module for module in modules if isinstance(module, _NormBase)]

    def finds_late(self, output: Any, leaves: Sequence[Any]) -> bool:
        """Whether an operator that just ran does; decided anew when attributes changed."""
        if self.is_late is None:
            self.is_late = writes_late(leaves_of(output), leaves)
        return self.is_late

    def begin(self, leaves: Sequence[Any] = ()) -> Met:
        """The block's forward begins.

        Args:
            leaves: of the block's arguments, among which may be generators and objects.
        """
        self.ran = True
        values = self.look()  # which may find another inventory
        met = Met(self.inventory, values, leaves)
        met.shared = Shared(full=True) if self.draws else marks()
        if self.special or self.norms or not self.is_examined or SCOPED:
            met.special = self._begin_special(Special() if met.special is None else met.special)
        return met

    def _begin_special(self, special: Special) -> Special:
        special.norms = [norm for norm in self.norms if norm.training]
        special.places = [Before(place) for place in self.special]
        if self.unexamined is not None or SCOPED:
            special.settings = Settings()
        if self.unexamined is not None:
            special.parameters = [
                (module, name, parameter, parameter._version)
                for module in self.root.modules()
                for name, parameter in module._parameters.items()
                if parameter is not None and has_version(parameter)
            ]
        return special

    def end(self, met: Met, leaves: Sequence[Any] = ()) -> None:
        """It is over: what it met is known in full.

        Raises:
            Unsupported: it changed what cannot be put back.
        """
        now = list(map(written_to, leaves))
        if now != met.versions:
            met.written = [n for n, version in enumerate(met.versions) if version != now[n]]
        met.versions = ()
        if met.special is not None:
            self._end_special(met.special)
        shared, met.shared = met.shared, None
        if self.draws or marks() != shared:
            met.shared = self._drawn_from(shared)
        if met.cut() or (met.special and met.special.makers):
            self._forget()  # what is new may be changed, too

    def _end_special(self, special: Special) -> None:
        for each in special.places:
            each.complete(special)
        for module, name, parameter, version in special.parameters:
            if parameter._version != version and name not in WRITTEN.setdefault(module, {}):
                WRITTEN[module][name] = True  # kept from now on; this time, values decide
                self._forget()
        special.complete()

    def _drawn_from(self, before: Shared | Marks | None) -> Shared | None:
        shared = before if isinstance(before, Shared) else Shared(before)
        moved = shared.moved()
        if moved and shared.states is None and not shared.tell():
            _DRAWING[self.root] = self.draws = True
            raise Unsupported(
                f"{type(self.root).__name__} draws from random or numpy.random, as it did not in"
                " its first forward; run this step again: from now on the state is kept"
            )
        if self.draws and not moved:
            self.draws = _DRAWING.setdefault(self.root, not READABLE)
        elif moved:
            _DRAWING[self.root] = True
        return shared if moved else None


class Before:
    """What can change without being replaced, as it is when a forward begins."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.known = WRITTEN.setdefault(place.module, {})
        self.tensors = {name: place.values[name] for name in place.tensors}
        self.versions = {name: tensor._version for name, tensor in self.tensors.items()}
        self.copies = {
            name: tensor.detach().clone()
            for name, tensor in self.tensors.items()
            if self.known.get(name, True) and _has_values(tensor)
        }
        self.contents = contents({name: place.values[name] for name in place.containers})
        generators = [place.values[name] for name in place.generators]
        self.generators = [(generator, own_state(generator)) for generator in generators]

    def complete(self, special: Special) -> None:
        """Add what the forward changed, and what it may have drawn from."""
        written = {name: self._is_written(name) for name in self.tensors}
        self.known |= written
        makers = {name: self._copy(name) for name, is_written in written.items() if is_written}
        makers |= filled(self.contents)
        if makers:
            special.makers = [*special.makers, (self.place.values, makers)]
        special.generators = [*special.generators, *self.generators]

    def _is_written(self, name: str) -> bool:
        tensor, then = self.tensors[name], self.copies.get(name)
        if tensor._version != self.versions[name]:
            return True
        if then is None or name in self.known:
            return self.known.get(name, False)
        return not torch.equal(tensor, then)

    def _copy(self, name: str) -> Make:
        if name in self.copies:
            return functools.partial(_again, self.copies[name], self.tensors[name].requires_grad)
        if not _has_values(self.tensors[name]):
            return functools.partial(torch.empty_like, self.tensors[name])
        raise Unsupported(
            f"{type(self.place.module).__name__} writes {name!r} in this forward, as it did not in"
            " its first; run this step again: from now on it is kept for the recompute"
        )


def _written_parameters(module: nn.Module) -> Place | None:
    """Those that its forwards write to: of an embedding, rows that have grown too long."""
    known = WRITTEN.get(module, {})
    names = [name for name in module._parameters if known.get(name)]
    if getattr(module, "max_norm", None) is not None and "weight" in module._parameters:
        names = ["weight"]
    return Place(module, module._parameters, names, [], []) if names else None


def _again(copy: Tensor, requires_grad: bool) -> Tensor:
    return copy.clone().requires_grad_(requires_grad)


def _has_parts(value: Any) -> bool:
    return isinstance(value, nn.Module) or has_state(value)


def _has_values(tensor: Tensor) -> bool:
    return not isinstance(tensor, FakeTensor) and tensor.device.type != "meta"


class WatchingStandIn(StandIn):
    """Runs a block whose state is watched.

    Attributes:
        state: of the module; of a replica, the replica's own.
    """

    def __init__(self, module: nn.Module, entry: str = "forward") -> None:
        super().__init__(module, entry)
        self.state = BlockState(module)

    def install(self) -> Undo:
        """Put it in place, and look now at what there is to watch, not in the first step."""
        undo = super().install()
        self.state.look()
        return undo

    def on(self, module: nn.Module) -> Self:
        """The same for a replica of the module."""
        other = super().on(module)
        other.state = BlockState(module)
        other.state.is_exact = self.state.is_exact
        return other
