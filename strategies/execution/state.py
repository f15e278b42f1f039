"""What a block's forward changes besides making its output, so that its recompute can be the same.

A recompute must meet what forward met, and leave what it finds: buffers that are written or
replaced, parameters that are replaced (`torch.func.functional_call`), counters, caches and lists
among the modules' attributes, generators of random numbers. What is another when the recompute
begins, because the forward or anybody else changed it since, is put back for as long; afterwards
everything is as it was. Statistics of batch norms, on which no output depends in training, are
frozen instead (`strategies.execution.statistics`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import operator
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _NormBase

from strategies.execution.errors import Unsupported
from strategies.execution.met import Make, Met
from strategies.execution.places import Place, Values, dictionaries, written_to
from strategies.execution.randoms import Shared, own_state
from strategies.execution.statistics import FrozenStatistics

_WRITTEN: weakref.WeakKeyDictionary[nn.Module, dict[str, bool]] = weakref.WeakKeyDictionary()
"""Whether a module writes a tensor in place, by name, as its first forward showed."""
_DRAWING: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
"""Whether a block draws from numpy's shared generator, as its first forward showed."""


class BlockState:
    """Everything that a block's modules hold, and what its forwards change of it.

    Attributes:
        root: the block.
        places: where all of it is.
        special: the places that hold what can change without being replaced.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._forget()

    def _forget(self) -> None:
        self.children: list[tuple[Values, tuple[Any, ...]]] = []
        self.all: list[Place] = []
        self.places: list[Values] = []
        self.special: list[Place] = []
        self.norms: list[nn.Module] = []

    def __getstate__(self) -> dict[str, Any]:
        found = ("children", "all", "places", "special", "norms")
        return {**vars(self), **{name: [] for name in found}}

    def _refresh(self) -> None:
        """Look again where values are, if modules or values of other kinds came or went."""
        if self.places and self._is_fresh():
            return
        self._forget()
        seen: dict[int, Place] = {}
        for module in self.root.modules():
            self.children.append((module._modules, tuple(module._modules.values())))
            for values in dictionaries(module):
                seen.setdefault(id(values), Place.of(module, values))
        self.all, self.places = list(seen.values()), [place.values for place in seen.values()]
        self.places += [m._parameters for m in self.root.modules() if m._parameters]
        self.special = [p for p in seen.values() if p.tensors or p.containers or p.generators]
        self.norms = [module for module in self.root.modules() if isinstance(module, _NormBase)]

    def _is_fresh(self) -> bool:
        same = all(tuple(own.values()) == then for own, then in self.children)
        return same and all(place.is_fresh() for place in self.all)

    @contextlib.contextmanager
    def forward(self, leaves: Sequence[Any] = ()) -> Iterator[Met]:
        """The block's forward; what it met is known in full afterwards.

        Args:
            leaves: of the block's arguments, among which may be generators and objects.

        Raises:
            Unsupported: it changed what cannot be put back.
        """
        self._refresh()
        met = Met(self.places, self.norms, leaves)
        special = [Before(place) for place in self.special]
        shared = Shared.now(numpy=_DRAWING.get(self.root, True))
        versions = [written_to(leaf) for leaf in leaves]
        yield met
        met.written = [n for n, then in enumerate(versions) if written_to(leaves[n]) != then]
        for each in special:
            each.complete(met)
        met.shared = self._drawn_from(shared)
        if met.cut() or met.made:
            self._forget()  # what is new may be changed, too

    def recompute(self, met: Met) -> contextlib.ExitStack | None:
        """The block is to run again, as it ran then; the stack, if there is one, ends that."""
        stack = met.restore()
        norms = [norm for norm in met.norms if norm.training]
        if norms:
            stack = stack or contextlib.ExitStack()
            stack.enter_context(FrozenStatistics(norms))
        return stack

    def _drawn_from(self, shared: Shared) -> Shared | None:
        python, numpy = shared.moved()
        if numpy and shared.numpy_state is None:
            _DRAWING[self.root] = True
            raise Unsupported(
                f"{type(self.root).__name__} draws from numpy.random, as it did not in its first"
                " forward; run this step again: from now on the state is kept for the recompute"
            )
        _DRAWING.setdefault(self.root, numpy)
        return shared if python or numpy else None


class Before:
    """What can change without being replaced, as it is when a forward begins."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.known = _WRITTEN.setdefault(place.module, {})
        self.tensors = {name: place.values[name] for name in place.tensors}
        self.versions = {name: tensor._version for name, tensor in self.tensors.items()}
        self.copies = {
            name: tensor.detach().clone()
            for name, tensor in self.tensors.items()
            if self.known.get(name, True) and _has_values(tensor)
        }
        containers = {name: place.values[name] for name in place.containers}
        self.contents = {name: (held, copy.copy(held)) for name, held in containers.items()}
        generators = [place.values[name] for name in place.generators]
        self.generators = [(generator, own_state(generator)) for generator in generators]

    def complete(self, met: Met) -> None:
        """Add what the forward changed, and what it may have drawn from."""
        written = {name: self._is_written(name) for name in self.tensors}
        self.known |= written
        made = {name: self._copy(name) for name, is_written in written.items() if is_written}
        filled = {n: then for n, (held, then) in self.contents.items() if not _alike(held, then)}
        made |= {name: functools.partial(copy.copy, then) for name, then in filled.items()}
        if made:
            met.made.append((self.place.values, made))
        met.generators += self.generators

    def _is_written(self, name: str) -> bool:
        tensor, then = self.tensors[name], self.copies.get(name)
        if tensor._version != self.versions[name]:
            return True
        if then is None or name in self.known:
            return self.known.get(name, False)
        return not torch.equal(tensor, then)

    def _copy(self, name: str) -> Make:
        if name in self.copies:
            return functools.partial(torch.clone, self.copies[name])
        if not _has_values(self.tensors[name]):
            return functools.partial(torch.empty_like, self.tensors[name])
        raise Unsupported(
            f"{type(self.place.module).__name__} writes {name!r} in this forward, as it did not in"
            " its first; run this step again: from now on it is kept for the recompute"
        )


def _has_values(tensor: Tensor) -> bool:
    return not isinstance(tensor, FakeTensor) and tensor.device.type != "meta"


def _alike(held: Any, then: Any) -> bool:
    """Whether a container holds the same objects as then."""
    if len(held) != len(then):
        return False
    if isinstance(held, dict):
        return list(held) == list(then) and all(map(operator.is_, held.values(), then.values()))
    return held == then if isinstance(held, set) else all(map(operator.is_, held, then))
