"""Writes down what one rank of several does: its own tensors, what it gathers, and collectives."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch import Tensor, nn
from torch.utils import checkpoint
from torch.utils._pytree import tree_leaves

from bench.ranks import buckets
from bench.ranks.communication import is_sharded, kind_of
from bench.simulate.trace import BACKWARD, FORWARD, RECOMPUTE
from bench.simulate.tracer import Tracer
from strategies.execution.dispatch import in_recompute
from strategies.profiling.rates import Scratch

GATHERED, BUCKETS = "gathered parameters", buckets.CATEGORY
MARKS = {
    "fsdp::all_gather_copy_in": GATHERED,
    "fsdp::split_with_sizes_copy": GATHERED,
    "fsdp::chunk_cat": BUCKETS,
}
"""FSDP2's own operators, and what their operands are, sharded parameters aside."""
UNPACKED = "fsdp::split_with_sizes_copy"
"""Parameters are there from here on."""


WRAPPED = "_c10d_functional::_wrap_tensor_autograd"


@dataclasses.dataclass(frozen=True)
class Collective:
    """One call.

    Attributes:
        kind: see `bench.ranks.communication`.
        position: how many operators were issued before.
        whole_bytes: of all that is gathered, or of what each rank gives to a sum.
        ranks: of the group.
        of_parameters: by FSDP2 or of a bucket of gradients, which overlaps; otherwise operators
            wait for it.
        recompute: repeated for a recomputation.
    """

    kind: str
    position: int
    whole_bytes: int
    ranks: int
    of_parameters: bool
    recompute: bool


class RankTracer(Tracer):
    """A `Tracer` that looks through sharded tensors at a rank's own parts.

    Storage that is resized, as FSDP2 frees and restores gathered parameters, dies and is born.

    Attributes:
        collectives: in the order of their issue.
        unpacked: for each time that FSDP2 unpacked gathered parameters, how many operators were
            issued before.
        streams: of the lives that FSDP2 allocates on a stream of its own, what that is for.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module] = (),
        scratch: Scratch | None = None,
    ) -> None:
        super().__init__(model, blocks, scratch)
        self.collectives: list[Collective] = []
        self.unpacked: list[int] = []
        self.streams: dict[int, str] = {}
        self._views = False
        self._sizes: dict[int, int] = {}
        self._marks: dict[int, str] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """As `Tracer`; a sharded tensor's own operators are seen, not the sharded tensor."""
        if is_sharded(types):
            return NotImplemented
        self._views = func.is_view or func._schema.name == WRAPPED
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func.namespace == "fsdp":
            self._mark((args, kwargs, out))
        return out

    def _note_work(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        kind = kind_of(func)
        if "c10d" not in func.namespace:
            if self.operator == UNPACKED:
                self.unpacked.append(len(self.work))
            super()._note_work(func, args, kwargs, out)
        elif kind is not None:
            self.collectives.append(self._collective(kind, args, out))
            # Buckets of DistributedDataParallel, which come as a list, are the default stream's.
            if self.collectives[-1].of_parameters and isinstance(args[0], Tensor):
                self.streams[self.current[_key(args[0])]] = self.collectives[-1].kind

    def _collective(self, kind: str, args: tuple[Any, ...], out: Any) -> Collective:
        tensors = [leaf for leaf in tree_leaves((args, out)) if isinstance(leaf, Tensor)]
        marked = (self._marks.get(_key(t)) for t in tensors)
        return Collective(
            kind=kind,
            position=len(self.work),
            whole_bytes=max(t.numel() * t.element_size() for t in tensors),
            ranks=_group_of(args).size(),
            of_parameters=any(marked),
            recompute=_in_recompute(),
        )

    def adopt_as(self, category: str, tensors: Iterable[Tensor]) -> None:
        """As `Tracer`; buckets are marked, so that what is said of them is of parameters."""
        tensors = list(tensors)
        super().adopt_as(category, tensors)
        if category == BUCKETS:
            self._marks |= {_key(tensor): BUCKETS for tensor in tensors}
            self.marked |= {self.current[_key(tensor)]: BUCKETS for tensor in tensors}

    def phase(self) -> str:
        """As `Tracer`; in a pipeline backward begins before all of forward is over."""
        known = super().phase()
        backward = known == FORWARD and torch._C._current_graph_task_id() != -1
        return (RECOMPUTE if in_recompute() else BACKWARD) if backward else known

    # What FSDP2 does to memory.

    def _mark(self, values: Any) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor):
                key = _key(tensor)
                self._marks[key] = MARKS.get(self.operator, "")
                if key in self.current:
                    self.marked[self.current[key]] = self._marks[key]

    def born(self, key: int, size_bytes: int) -> None:
        """Open a life; not of memory that a view or a wrapper is the first to tell of.

        That is what gloo copies a gradient to before it reduces it; NCCL does not. A wrapper stands
        for a tensor that a collective has still to fill, and has no memory.
        """
        if self._views:
            return
        self._sizes[key] = size_bytes
        super().born(key, size_bytes)

    def died(self, key: int, size_bytes: int) -> None:
        """Close it, with the size that it has by now."""
        del size_bytes
        self._marks.pop(key, None)
        known_bytes = self._sizes.pop(key, 0)
        if known_bytes:
            super().died(key, known_bytes)

    def resized(self, storage: torch.UntypedStorage) -> None:
        """What was there is gone; what is there is new."""
        key, size_bytes = storage._cdata, storage.nbytes()
        if key not in self._sizes or self._sizes[key] == size_bytes:
            return
        if self._sizes[key]:
            super().died(key, self._sizes[key])
        self._sizes[key] = size_bytes
        if size_bytes:
            self.operator = "resize_"
            super().born(key, size_bytes)
            if key in self._marks:
                self.marked[self.current[key]] = self._marks[key]

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Follow modules, block boundaries, and storages that change their size.

        No dispatched operator tells of the latter, so the method is replaced meanwhile, as
        `torch.distributed._tools.mem_tracker` does.
        """
        original = torch.UntypedStorage.resize_

        @functools.wraps(original)
        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            result = original(storage, size)
            self.resized(storage)
            return result

        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign, assignment]
        try:
            with super().watching():
                yield
        finally:
            torch.UntypedStorage.resize_ = original  # type: ignore[method-assign]


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _group_of(args: tuple[Any, ...]) -> dist.ProcessGroup:
    """The group of a collective, which is given as an object, or by name as the last argument."""
    boxed = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.ScriptObject)]
    if boxed:
        return dist.ProcessGroup.unbox(boxed[0])
    named: dist.ProcessGroup = c10d._resolve_process_group(args[-1])  # type: ignore[attr-defined]
    return named


def _in_recompute() -> bool:
    """Whether a checkpoint runs forward again: collectives are issued where none is recorded."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "unpack_hook" and code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False
