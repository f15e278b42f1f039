"""Every storage born and freed, and every FLOP, at the level of dispatched operators.

Works the same on real and on fake tensors, to the byte. It does not see scratch memory that a
kernel takes and returns inside one call; the allocator's own events do (`bench.measure.memory`).
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _autograd

from strategies.execution.dispatch import in_recompute
from strategies.execution.tensors import dense_parts, tensors_in
from strategies.profiling.flops import FlopCounter
from strategies.profiling.rates import Rates, Scratch


@dataclasses.dataclass(frozen=True)
class Mark:
    """A named moment.

    Attributes:
        event: how many events came before; index into ``Ledger.alive``.
        alive_bytes: held at that moment.
        flops: counted so far.
        recompute_flops: the part of them that repeats forward work during backward.
        time_ps: of the operators so far, by the ledger's rates, in picoseconds: whole numbers, so
            that equal blocks take equal times.
        recompute_ps: the part of it that repeats forward work during backward.
    """

    name: str
    event: int
    alive_bytes: int
    flops: int
    recompute_flops: int
    time_ps: int = 0
    recompute_ps: int = 0


class Ledger(FlopCounter):
    """Counts bytes held by tensors, FLOPs and, by ``rates``, seconds, while it is active.

    Attributes:
        alive: bytes held after each birth or death, in order.
        marks: moments named by `mark`.
        scratch: of kernels that only are simulated; default: what ``rates`` say.
        recomputed: called when the first operator comes that follows a recompute; nothing is
            looked for if it is None.
    """

    def __init__(self, rates: Rates | None = None, scratch: Scratch | None = None) -> None:
        super().__init__()
        self.rates = rates
        self.scratch = scratch or (rates.scratch if rates else None)
        self.time_ps = self.recompute_ps = 0
        self.alive_bytes = 0
        self.alive: list[int] = []
        self.marks: list[Mark] = []
        self.recomputed: Callable[[], None] | None = None
        self._known: set[int] = set()
        self._runs_again = False

    def adopt(self, tensors: Iterable[Tensor]) -> int:
        """Count tensors that existed before; returns how many bytes they add."""
        before = self.alive_bytes
        for tensor in tensors:
            self._birth(tensor)
        return self.alive_bytes - before

    def mark(self, name: str) -> Mark:
        """Name this moment."""
        mark = Mark(
            name=name,
            event=len(self.alive),
            alive_bytes=self.alive_bytes,
            flops=self.flops,
            recompute_flops=self.recompute_flops,
            time_ps=self.time_ps,
            recompute_ps=self.recompute_ps,
        )
        self.marks.append(mark)
        return mark

    def peak_bytes(self, begin: Mark | None = None, end: Mark | None = None) -> int:
        """Most bytes held between two marks (default: ever)."""
        start = begin.event if begin else 0
        stop = end.event if end else len(self.alive)
        floor = begin.alive_bytes if begin else 0
        return max((floor, *self.alive[start:stop]))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator, count its FLOPs and what it made."""
        if self.recomputed is not None:
            self._follow(self.recomputed)
        before = self.flops
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if self.rates is not None:
            moved_bytes = traffic_bytes(func, (args, kwargs), out)
            name = func.name().removeprefix("aten::")
            operator_s = self.rates.operator_s(name, self.flops - before, moved_bytes)
            self._spend(round(operator_s * 1e12) if moved_bytes else 0)
        for tensor in tensors_in(out):
            for part in dense_parts(tensor):
                self._birth(part)
        if self.scratch is not None:
            self._lend(self.scratch(func, args, kwargs or {}))
        return out

    def _follow(self, recomputed: Callable[[], None]) -> None:
        ran_again, self._runs_again = self._runs_again, _runs_again()
        if ran_again and not self._runs_again:
            recomputed()

    def _lend(self, sizes_bytes: Sequence[int]) -> None:
        """What a kernel takes and returns, beside its outputs."""
        for number, size_bytes in enumerate(sizes_bytes):
            self.born(-1 - number, size_bytes)
        for number, size_bytes in enumerate(sizes_bytes):
            self.died(-1 - number, size_bytes)

    def _spend(self, time_ps: int) -> None:
        self.time_ps += time_ps
        self.recompute_ps += time_ps if in_recompute() else 0

    def adopt_storages(self, storages: Iterable[torch.UntypedStorage]) -> int:
        """The same, of their memory."""
        before = self.alive_bytes
        for storage in storages:
            self._birth_of(storage)
        return self.alive_bytes - before

    def _birth(self, tensor: Tensor) -> None:
        self._birth_of(tensor.untyped_storage())

    def _birth_of(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size_bytes = storage.nbytes()
        self.born(key, size_bytes)
        weakref.finalize(storage, _death, weakref.ref(self), key, size_bytes)

    def born(self, key: int, size_bytes: int) -> None:
        """A storage exists from now on."""
        del key
        self._change(size_bytes)

    def died(self, key: int, size_bytes: int) -> None:
        """A storage is gone; its key may be used again."""
        del key
        self._change(-size_bytes)

    def _change(self, delta_bytes: int) -> None:
        self.alive_bytes += delta_bytes
        self.alive.append(self.alive_bytes)


def _runs_again() -> bool:
    """Whether forward is on its way again, in whose hooks and functions no gradient is recorded."""
    in_backward = torch._C._current_graph_task_id() != -1
    return bool(in_backward and _autograd._top_saved_tensors_default_hooks(True))


def traffic_bytes(func: Any, inputs: Any, out: Any) -> int:
    """Bytes that an operator reads and writes; 0 for views, which only look, and for mere room."""
    if func.is_view or only_makes_room(func):
        return 0
    outputs = [part for tensor in tensors_in(out) for part in dense_parts(tensor)]
    read = [part for tensor in tensors_in(inputs) for part in dense_parts(tensor)]
    if len(read) == 1 and not func._schema.is_mutable and _same_storages(read, outputs):
        return 0
    sizes = [t.numel() * t.element_size() for t in (*read, *outputs)] if outputs else []
    return _touched_bytes(func, sizes, len(read))


# Operators that look only where their indices say, and which operand that is.
INDEXED = {
    **dict.fromkeys(("embedding", "index_select", "gather", "index", "take", "take_along_dim"), 0),
    "nll_loss_forward": 0,
    "nll_loss_backward": 1,
}
# Those that write there, in place.
INDEXED_WRITES = frozenset({"index_put_", "index_add_", "index_copy_", "scatter_", "scatter_add_"})


def _touched_bytes(func: Any, sizes: list[int], read: int) -> int:
    """The sum, an indexed operand counted for no more than all else that the operator touches."""
    name = str(func.name()).removeprefix("aten::").partition(".")[0]
    if name in INDEXED and read > INDEXED[name]:
        whole = sizes.pop(INDEXED[name])
        return sum(sizes) + (min(whole, sum(sizes)) if name != "nll_loss_backward" else 0)
    if name in INDEXED_WRITES and sizes:
        others = sum(sizes[1:read])
        return others + min(sizes[0], others) * 2  # read, and written
    return sum(sizes)


def _same_storages(read: Iterable[Tensor], outputs: Iterable[Tensor]) -> bool:
    """Whether nothing new was made: ``_unsafe_view`` is a view by another name."""
    storages = {t.untyped_storage()._cdata for t in read}
    return storages.issuperset(t.untyped_storage()._cdata for t in outputs)


def only_makes_room(func: Any) -> bool:
    """Whether an operator allocates and does no more: no kernel runs."""
    return str(func.name()).removeprefix("aten::").startswith(("empty", "new_empty"))


def is_scratch(key: int) -> bool:
    """Whether a storage of that key is a kernel's own, taken and returned inside one call."""
    return key < 0


def _death(reference: Callable[[], Ledger | None], key: int, size_bytes: int) -> None:
    ledger = reference()
    if ledger is not None:
        ledger._known.discard(key)
        ledger.died(key, size_bytes)


def unique_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind ``tensors``."""
    storages = (p.untyped_storage() for tensor in tensors for p in dense_parts(tensor))
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())
