"""Finds blocks that are equal, so that each kind is watched once; equality is checked.

One forward, in which every block is compared as it stands (`kinds`), by what it is called with and,
where it knows its own number, by every operator that it runs. The first and the last block of every
tower are watched for themselves: they stand beside something else. Nothing is taken for equal in a
model where values decide what runs (a mixture of experts), nor a block that reads or leaves
anything but through arguments and outputs.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Collection, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from strategies.execution.chain import Chain
from strategies.execution.stand_in import StandIn
from strategies.execution.tensors import fills_memory, storage_key, tensors_in
from strategies.execution.undo import Undo, installed
from strategies.profiling.kinds import Kind, kinds_of, plain_or_none
from strategies.profiling.passage import Form, Record, reached, signature_of
from strategies.profiling.saved import Slip, Slips, nothing
from strategies.profiling.scouted import Before, Operators
from strategies.profiling.step import Step


@dataclasses.dataclass(frozen=True)
class Alike:
    """Which blocks are watched for which.

    Attributes:
        like: for each block, the one that is watched for it: itself or an equal one.
        records: of the blocks that are not watched, what the watched one did.
        resident: storages that are alive before the step.
        shares: some parameters are in several places, so that their gradients meet.
    """

    like: tuple[int, ...]
    records: dict[int, Record]
    resident: frozenset[int]
    shares: bool = False

    @property
    def watched(self) -> list[int]:
        """The blocks that run."""
        return sorted(set(self.like))

    def without(self, indices: Collection[int]) -> Alike:
        """The same, but these blocks are watched for themselves."""
        like = tuple(i if i in indices else other for i, other in enumerate(self.like))
        records = {i: record for i, record in self.records.items() if i not in indices}
        return dataclasses.replace(self, like=like, records=records)

    def stands_for(self, indices: Collection[int]) -> bool:
        """Whether one of these blocks is passed by, or watched for another."""
        pairs = ((i, other) for i, other in enumerate(self.like) if i != other)
        return any(i in indices or other in indices for i, other in pairs)

    def install(self, chain: Chain, *, whole: bool) -> list[Undo]:
        """Make the others take and return what they would, without running.

        Args:
            chain: the blocks.
            whole: they keep as many bytes as they would, and leave their parameters' gradients, for
                what is alive outside the watched blocks counts too.

        Returns:
            How to undo it, to be run in reverse.
        """
        if not self.records:
            return []
        trail, whole = Trail(), whole or self.shares
        records = {i: r if whole else r.bare() for i, r in self.records.items()}
        return [
            _Passing(block, records.get(index), self.resident, trail).install()
            for index, block in enumerate(chain.blocks)
        ]


def each(chain: Chain) -> Alike:
    """Every block is watched: where a compiler would trace what passes blocks by, for one."""
    return Alike(tuple(range(len(chain))), {}, frozenset())


class Trail:
    """What the last block returned, as far as somebody holds it."""

    def __init__(self) -> None:
        self._references: list[weakref.ref[Tensor]] = []

    @property
    def tensors(self) -> list[Tensor | None]:
        """In order; ``None`` for one that is gone."""
        return [reference() for reference in self._references]

    def follow(self, output: Any) -> None:
        """A block returned this."""
        self._references = [weakref.ref(tensor) for tensor in tensors_in(output)]


class _Passing(StandIn):
    """A block that is not run where its call is the one that was recorded; others run."""

    def __init__(
        self, module: nn.Module, record: Record | None, resident: frozenset[int], trail: Trail
    ) -> None:
        super().__init__(module)
        self.record, self.resident, self.trail = record, resident, trail

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.record and self.record.signature == self._signature(args, kwargs):
            output = self.record.passed(self.module, args, kwargs)
        else:
            output = self.original(*args, **kwargs)
        self.trail.follow(output)
        return output

    def _signature(self, args: Any, kwargs: Any) -> Hashable:
        return signature_of(args, kwargs, self.resident, self.trail.tensors)


def scout(step: Step, chain: Chain, alone: Collection[int] = ()) -> Alike:
    """Find the equal blocks of ``chain``.

    Args:
        step: one forward of it runs, of each kind of block but once where that is enough.
        chain: the blocks.
        alone: blocks to be watched for themselves.
    """
    identity = each(chain)
    if chain.repeats:
        return identity  # one block in several places has one forward
    ends = {index for span in chain.spans for index in (span[0], span[-1])} | set(alone)
    if len(chain) - len(ends) < 2:
        return identity
    kinds = kinds_of(chain, step.model)
    middle = [kind.key for index, kind in enumerate(kinds) if index not in ends]
    if len(set(middle)) == len(middle):
        return identity
    resident = frozenset(storage_key(tensor) for tensor in step.resident_tensors())
    log = _Log(kinds, ends, resident, list(identity.like))
    hooks = torch.autograd.graph.saved_tensors_hooks(log.pack, nothing)
    with installed(lambda: log.install(chain)), hooks, log.operators:
        step.forward()
    held = {storage_key(tensor) for tensor in getattr(step, "output", ())}
    if log.operators.values_decide or log.order != list(identity.like) or held & log.leaked():
        return identity
    return Alike(tuple(log.like), log.records, resident, _shares(step.model))


def _shares(model: nn.Module) -> bool:
    parameters = [storage_key(p) for m in model.modules() for p in m.parameters(recurse=False)]
    return len(set(parameters)) < len(parameters)


class _Log:
    """What the scouting forward has shown so far."""

    def __init__(
        self, kinds: Sequence[Kind], ends: set[int], resident: frozenset[int], like: list[int]
    ) -> None:
        self.kinds, self.ends, self.resident, self.like = kinds, ends, resident, like
        self.order: list[int] = []
        self.trail = Trail()
        self.operators = Operators()
        self.ready: dict[Hashable, tuple[int, Record]] = {}
        self.records: dict[int, Record] = {}
        self.saved = Slips()
        self.inside = False
        self.inner: list[tuple[int, weakref.ref[torch.UntypedStorage]]] = []

    def install(self, chain: Chain) -> list[Undo]:
        """Every block's forward comes here."""
        return [_Scouted(b, i, self).install() for i, b in enumerate(chain.blocks)]

    def pack(self, tensor: Tensor) -> Slip:
        """Note what the block that runs saves; no graph, so that no circle."""
        slip = Slip()
        if self.inside:
            self.saved.add(tensor, slip)
        return slip

    def call(self, block: _Scouted, args: Any, kwargs: Any) -> Any:
        """One block's forward, run or not."""
        index, kind = block.index, self.kinds[block.index]
        self.order.append(index)
        self.operators.begun = True
        signature = signature_of(args, kwargs, self.resident, self.trail.tensors)
        key = (kind.key, signature)
        first, _ = self.ready.get(key, (index, None))
        if index not in self.ends and not kind.numbered and first != index:
            self._settle(index, key)
            output = self.records[index].bare().passed(block.module, args, kwargs)
        else:
            output, record = self._run(block, signature, args, kwargs)
            if index not in self.ends and record is not None:
                calls = tuple(self.operators.calls) if kind.numbered else ()
                self.ready.setdefault((*key, *calls) if calls else key, (index, record))
                self._settle(index, (*key, *calls) if calls else key)
        self.trail.follow(output)
        return output

    def leaked(self) -> set[int]:
        """Storages that blocks made, did not hand on, and that somebody holds all the same."""
        self.operators.born = {}
        return {key for key, reference in self.inner if reference() is not None}

    def _settle(self, index: int, key: Hashable) -> None:
        """A block is like the first of its kind."""
        self.like[index], record = self.ready[key]
        if self.like[index] != index:
            self.records[index] = record

    def _run(
        self, block: _Scouted, signature: Hashable, args: Any, kwargs: Any
    ) -> tuple[Any, Record | None]:
        """Run a block; its record, if that says everything."""
        self.saved, self.operators.calls, self.operators.born = Slips(), [], {}
        before = Before.of(block.module, args, kwargs)
        self.inside = True
        try:
            output = block.original(*args, **kwargs)
        finally:
            self.inside = False
        handed_on = set(map(storage_key, tensors_in(output)))
        born = self.operators.born.items()
        self.inner += [(key, weakref.ref(one)) for key, one in born if key not in handed_on]
        if not before.unchanged(block.module, args, kwargs):
            return output, None
        return output, self._record(block.module, signature, before.leaves, output)

    def _record(
        self, block: nn.Module, signature: Hashable, leaves: Sequence[Any], output: Any
    ) -> Record | None:
        outputs, spec = tree_flatten(output)
        if not plain_or_none([*leaves, *outputs]):
            return None
        arguments = {id(leaf): i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        made = [t for t in outputs if isinstance(t, Tensor) and id(t) not in arguments]
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        ends = reached(made, given, block)
        if ends is None or not self._is_own(made):
            return None
        keys = {storage_key(tensor): number for number, tensor in enumerate(made)}
        inputs = {storage_key(leaves[number]): number for number in arguments.values()}
        saved = self.saved.held()
        inner = saved.keys() - keys.keys() - inputs.keys() - self.resident
        if not inner <= self.operators.born.keys():
            return None  # it saves what somebody else made
        return Record(
            signature=signature,
            spec=spec,
            outputs=tuple(_described(leaf, arguments) for leaf in outputs),
            saved_arguments=tuple(n for key, n in inputs.items() if key in saved),
            saved_outputs=tuple(n for key, n in keys.items() if key in saved),
            saved_bytes=sum(saved[key] for key in inner),
            learning=tuple(sorted(arguments[identity] for identity in ends[0])),
            parameters=tuple(sorted(ends[1])),
        )

    def _is_own(self, made: Sequence[Tensor]) -> bool:
        """Whether every output lies in memory of its own, which it fills."""
        keys = {storage_key(tensor) for tensor in made}
        full = all(map(fills_memory, made))
        return full and len(keys) == len(made) and keys <= self.operators.born.keys()


def _described(leaf: Any, arguments: dict[int, int]) -> Form | int | tuple[Any]:
    if isinstance(leaf, Tensor):
        number = arguments.get(id(leaf))
        return Form.of(leaf) if number is None else number
    return (leaf,)


class _Scouted(StandIn):
    """A block in the scouting forward."""

    def __init__(self, module: nn.Module, index: int, log: _Log) -> None:
        super().__init__(module)
        self.index, self.log = index, log

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.log.call(self, args, kwargs)
