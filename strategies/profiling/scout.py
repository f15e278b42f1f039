"""Finds blocks that are equal, so that each kind is watched once; equality is checked.

One forward, in which every block is compared as it stands (`kinds`), by what it is called with and,
where it knows its own number, by every operator that it runs. The first and the last block of every
tower are watched for themselves: they stand beside something else. Nothing is taken for equal in a
model where values decide what runs (a mixture of experts), nor a block that reads or leaves
anything but through arguments and outputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable
from typing import Any

import torch
from torch import nn

from strategies.execution.chain import Chain
from strategies.execution.stand_in import StandIn
from strategies.execution.tensors import storage_key
from strategies.execution.undo import Undo, installed
from strategies.profiling.kinds import kinds_of
from strategies.profiling.passage import Record, signature_of
from strategies.profiling.saved import nothing
from strategies.profiling.scout_log import Log
from strategies.profiling.scouted import Trail
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
    identity, log = each(chain), _scouted(step, chain, alone)
    if log is None or log.order != list(identity.like):
        return identity
    held = {storage_key(tensor) for tensor in getattr(step, "output", ())}
    if held & log.leaked():
        return identity
    return Alike(tuple(log.like), log.records, log.resident, _shares(step.model))


def calls_of(step: Step, chain: Chain) -> list[int] | None:
    """The blocks in the order in which one forward calls them, equal ones passed by.

    Returns:
        ``None`` if no forward ran, for no block would have been passed by; or if values decide what
        runs, and those of a block that is passed by are not its own.
    """
    log = _scouted(step, chain)
    return None if log is None else log.order


def _scouted(step: Step, chain: Chain, alone: Collection[int] = ()) -> Log | None:
    """What a forward shows, if it may pass any block by."""
    if chain.repeats:
        return None  # one block in several places has one forward
    ends = {index for span in chain.spans for index in (span[0], span[-1])} | set(alone)
    if len(chain) - len(ends) < 2:
        return None
    kinds = kinds_of(chain, step.model)
    middle = [kind.key for index, kind in enumerate(kinds) if index not in ends]
    if len(set(middle)) == len(middle):
        return None
    resident = frozenset(storage_key(tensor) for tensor in step.resident_tensors())
    log = Log(kinds, ends, resident, list(range(len(chain))))
    hooks = torch.autograd.graph.saved_tensors_hooks(log.pack, nothing)
    with installed(lambda: log.install(chain)), hooks, log.operators:
        step.forward()
    return None if log.operators.values_decide else log


def _shares(model: nn.Module) -> bool:
    parameters = [storage_key(p) for m in model.modules() for p in m.parameters(recurse=False)]
    return len(set(parameters)) < len(parameters)
