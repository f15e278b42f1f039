"""What a block's forward changes besides making its output, so that its recompute can be the same.

A recompute must meet what forward met, and leave what it finds: buffers that are written or
replaced, counters, caches and lists among the modules' attributes, generators of random numbers.
What is another when the recompute begins, because the forward or anybody else changed it since, is
put back for as long; afterwards everything is as it was. Statistics of batch norms, on which no
output depends in training, are frozen instead (`strategies.execution.statistics`).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import operator
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _NormBase

from strategies.execution.errors import Unsupported
from strategies.execution.randoms import Restore, Shared, is_generator, own_state
from strategies.execution.stand_in import Replicate, StandIn
from strategies.execution.statistics import FrozenStatistics

Values = dict[str, Any]
Make = Callable[[], Any]
Contents = dict[str, tuple[Any, Any]]
_OWN = frozenset(nn.Module().__dict__) - {"training"}
_MISSING = object()
_CONTAINERS = (list, dict, set, deque)
# What has attributes, but none that a forward would change.
_STATELESS = (
    *(nn.Module, Tensor, StandIn, Replicate, functools.partial),
    *(type, types.FunctionType, types.MethodType, types.ModuleType),
)
_SIMPLE = frozenset({Tensor, nn.Parameter, FakeTensor, type(None), bool, int, float, str})

_WRITTEN: weakref.WeakKeyDictionary[nn.Module, dict[str, bool]] = weakref.WeakKeyDictionary()
"""Whether a module writes a tensor in place, by name, as its first forward showed."""
_DRAWING: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
"""Whether a block draws from numpy's shared generator, as its first forward showed."""


@dataclasses.dataclass(frozen=True)
class Place:
    """The attributes or the buffers of a module, or the attributes of an object that it has.

    Attributes:
        module: whose.
        values: by name.
        tensors: names of tensors, which a forward might write to.
        containers: names of lists and the like, which it might fill.
        generators: names of generators, from which it might draw.
    """

    module: nn.Module
    values: Values
    tensors: list[str]
    containers: list[str]
    generators: list[str]

    @classmethod
    def of(cls, module: nn.Module, values: Values) -> Place:
        """Look through the values."""
        own = {name: value for name, value in values.items() if name not in _OWN}
        tensors = [n for n, v in own.items() if isinstance(v, Tensor) and not v.is_inference()]
        containers = [name for name, value in own.items() if isinstance(value, _CONTAINERS)]
        generators = [name for name, value in own.items() if is_generator(value)]
        return cls(module, values, tensors, containers, generators)


class Met:
    """What a block's forward met; met again by each of its recomputes.

    Attributes:
        places: dictionaries of attributes and buffers, and all that each held.
        made: dictionaries, and for some names how to make what was there.
        generators: that may have been drawn from, and how to put them back.
        shared: the generators that all share, if the forward drew from them.
        written: which leaves of the arguments it wrote to.
    """

    def __init__(self, state: BlockState, leaves: Sequence[Any]) -> None:
        self.places = [(values, values.copy()) for values in state.places]
        self.made: list[tuple[Values, dict[str, Make]]] = []
        self.generators: list[tuple[Any, Restore]] = []
        self.shared: Shared | None = None
        self.written: list[int] = []
        self.contents: list[tuple[Values, Contents]] = []
        if not _SIMPLE.issuperset(map(type, leaves)):
            found = _reachable(leaves)
            self.places += [(values, values.copy()) for values in found]
            self.contents = [(values, _contents(values)) for values in found]
            self.generators = [(leaf, own_state(leaf)) for leaf in leaves if is_generator(leaf)]

    def complete(self) -> None:
        """Add the containers of the arguments' attributes that the forward filled or emptied."""
        for values, contents in self.contents:
            if changed := _filled(contents):
                self.made.append((values, changed))
        self.contents = []

    def cut(self) -> bool:
        """Let go of the graphs of earlier steps, which would be kept from step to step.

        Returns:
            Whether the forward replaced anything.
        """
        replaced = [(held, name) for now, held in self.others() for name in _names(now, held)]
        for held, name in replaced:
            value = held.get(name)
            if isinstance(value, Tensor) and value.grad_fn is not None:
                held[name] = value.detach().requires_grad_()
        return bool(replaced)

    def others(self) -> list[tuple[Values, Values]]:
        """The places that hold something else by now."""
        return [
            (now, held)
            for now, held in self.places
            if len(now) != len(held) or not all(map(operator.is_, now.values(), held.values()))
        ]

    def restore(self) -> contextlib.ExitStack | None:
        """For a recompute: everything as it was; the stack makes it as it is now."""
        others = self.others()
        if not (others or self.made or self.generators or self.shared):
            return None
        stack = contextlib.ExitStack()
        for now, held in others:
            _exchange(stack, now, {name: held.get(name, _MISSING) for name in _names(now, held)})
        for values, made in self.made:
            _exchange(stack, values, {name: make() for name, make in made.items()})
        for generator, restore in self.generators:
            stack.callback(own_state(generator))
            restore()
        if self.shared:
            stack.callback(Shared.now(numpy=self.shared.numpy_state is not None).restore)
            self.shared.restore()
        return stack


def _names(now: Values, then: Values) -> list[str]:
    """The names under which there is something else."""
    return [n for n in {**then, **now} if then.get(n, _MISSING) is not now.get(n, _MISSING)]


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


class BlockState:
    """Everything but parameters that a block's modules hold, and what its forwards change of it.

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
        self.places: list[Values] = []
        self.special: list[Place] = []
        self.norms: list[nn.Module] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "children": [], "places": [], "special": [], "norms": []}

    def _refresh(self) -> None:
        """Look again where values are, if modules came or went."""
        if self.places and all(tuple(own.values()) == then for own, then in self.children):
            return
        self._forget()
        seen: dict[int, Place] = {}
        for module in self.root.modules():
            self.children.append((module._modules, tuple(module._modules.values())))
            for values in _dictionaries(module):
                seen.setdefault(id(values), Place.of(module, values))
        self.places = [place.values for place in seen.values()]
        self.special = [p for p in seen.values() if p.tensors or p.containers or p.generators]
        self.norms = [module for module in self.root.modules() if isinstance(module, _NormBase)]

    @contextlib.contextmanager
    def forward(self, leaves: Sequence[Any] = ()) -> Iterator[Met]:
        """The block's forward; what it met is known in full afterwards.

        Args:
            leaves: of the block's arguments, among which may be generators and objects.

        Raises:
            Unsupported: it changed what cannot be put back.
        """
        self._refresh()
        met = Met(self, leaves)
        special = [Before(place) for place in self.special]
        shared = Shared.now(numpy=_DRAWING.get(self.root, True))
        versions = [leaf._version if has_version(leaf) else 0 for leaf in leaves]
        yield met
        now = (leaf._version if has_version(leaf) else 0 for leaf in leaves)
        met.written = [
            n for n, pair in enumerate(zip(versions, now, strict=True)) if pair[0] != pair[1]
        ]
        for each in special:
            each.complete(met)
        met.complete()
        met.shared = self._drawn_from(shared)
        if met.cut() or met.made:
            self._forget()  # what is new may be changed, too

    def recompute(self, met: Met) -> contextlib.ExitStack | None:
        """The block is to run again, as it ran then; the stack, if there is one, ends that."""
        stack = met.restore()
        norms = [norm for norm in self.norms if norm.training]
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


def _dictionaries(module: nn.Module) -> Iterator[Values]:
    yield vars(module)
    if not (isinstance(module, _NormBase) and module.training):
        yield module._buffers
    for name, value in vars(module).items():
        if name not in _OWN and has_state(value):
            yield vars(value)


def has_state(value: Any) -> bool:
    """Whether it is an object whose attributes a forward might change."""
    stateless = isinstance(value, _STATELESS) or is_generator(value)
    return not stateless and type(getattr(value, "__dict__", None)) is dict


def _reachable(leaves: Iterable[Any]) -> list[Values]:
    """The attributes of objects, of objects that these have, and so on: a cache holds its layers'.

    Each once, however the objects refer to each other.
    """
    found: dict[int, Values] = {}
    waiting = deque(leaves)
    while waiting:
        value = waiting.popleft()
        if isinstance(value, (list, tuple, dict)):
            waiting.extend(value.values() if isinstance(value, dict) else value)
        elif type(value) not in _SIMPLE and has_state(value) and id(vars(value)) not in found:
            found[id(vars(value))] = vars(value)
            waiting.extend(vars(value).values())
    return list(found.values())


def _contents(values: Values) -> Contents:
    """The containers among attributes, each with a copy: what it holds now."""
    return {
        n: (held, copy.copy(held)) for n, held in values.items() if isinstance(held, _CONTAINERS)
    }


def _filled(contents: Contents) -> dict[str, Make]:
    """How to make those that hold something else by now as they were."""
    filled = {name: then for name, (held, then) in contents.items() if not _alike(held, then)}
    return {name: functools.partial(copy.copy, then) for name, then in filled.items()}


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
        self.contents = _contents({name: place.values[name] for name in place.containers})
        generators = [place.values[name] for name in place.generators]
        self.generators = [(generator, own_state(generator)) for generator in generators]

    def complete(self, met: Met) -> None:
        """Add what the forward changed, and what it may have drawn from."""
        written = {name: self._is_written(name) for name in self.tensors}
        self.known |= written
        made = {name: self._copy(name) for name, is_written in written.items() if is_written}
        made |= _filled(self.contents)
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


def has_version(value: Any) -> bool:
    """Whether it is a tensor that knows how often it was written to."""
    return isinstance(value, Tensor) and not value.is_inference()


def _has_values(tensor: Tensor) -> bool:
    return not isinstance(tensor, FakeTensor) and tensor.device.type != "meta"


def _alike(held: Any, then: Any) -> bool:
    """Whether a container holds the same objects as then."""
    if len(held) != len(then):
        return False
    if isinstance(held, dict):
        return list(held) == list(then) and all(map(operator.is_, held.values(), then.values()))
    return held == then if isinstance(held, set) else all(map(operator.is_, held, then))
