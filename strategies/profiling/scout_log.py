"""What a scouting forward shows, block by block; see `strategies.profiling.scout`."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from strategies.execution.chain import Chain
from strategies.execution.stand_in import StandIn
from strategies.execution.tensors import fills_memory, storage_key, tensors_in
from strategies.execution.undo import Undo
from strategies.profiling.kinds import Kind, plain_or_none
from strategies.profiling.passage import Form, Record, reached, signature_of
from strategies.profiling.saved import Slip, Slips
from strategies.profiling.scouted import Before, Operators, Trail


class Log:
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

    def __init__(self, module: nn.Module, index: int, log: Log) -> None:
        super().__init__(module)
        self.index, self.log = index, log

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.log.call(self, args, kwargs)
