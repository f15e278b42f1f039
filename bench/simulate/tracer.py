"""Writes down a step's memory as it runs, on real and on fake tensors alike.

What the step is, and what its storages were for: see `bench.simulate.traced_step`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._pytree import tree_leaves

from bench.simulate.roofline import Operator, Transfer
from bench.simulate.trace import BACKWARD, FORWARD, OPTIMIZER, RECOMPUTE, TAIL, Event, Life
from strategies.execution.dispatch import flops_of, in_recompute
from strategies.profiling.ledger import Ledger, is_scratch, traffic_bytes
from strategies.profiling.rates import Scratch

_DEVICE = torch.ops.prim.device.default


class Tracer(Ledger):
    """Writes a `Trace` while it is active."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module] = (),
        scratch: Scratch | None = None,
    ) -> None:
        super().__init__(scratch=scratch)
        self.names = {id(module): name or "model" for name, module in model.named_modules()}
        self.blocks = list(blocks)
        self.lives: list[Life] = []
        self.events: list[Event] = []
        self.work: list[Operator] = []
        self.transfers: list[Transfer] = []
        self.current: dict[int, int] = {}  # a storage's key to the index of its life
        self.boundaries: set[int] = set()
        self.marked: dict[int, str] = {}  # categories of lives, where an operator told them
        self.path: list[str] = []
        self.backward_of = TAIL
        self.operator = ""
        self.forward_done = self.updating = False
        self.tail_begins: int | None = None

    # What the ledger tells.

    def born(self, key: int, size_bytes: int) -> None:
        """Open a life."""
        super().born(key, size_bytes)
        self.current[key] = len(self.lives)
        born = len(self.events)
        life = Life(size_bytes, self.phase(), self.operator, self.module(), born=born)
        life.is_scratch = is_scratch(key)
        self.lives.append(life)
        self._log(self.current[key], size_bytes)

    def died(self, key: int, size_bytes: int) -> None:
        """Close it; what dies after the step is no part of it."""
        super().died(key, size_bytes)
        index = self.current.pop(key, None)
        if index is not None:
            self.lives[index].died = len(self.events)
            self._log(index, -size_bytes)

    def _log(self, life: int, delta_bytes: int) -> None:
        event = Event(life, delta_bytes, self.phase(), self.operator, self.module())
        self.events.append(event)

    def adopt_as(self, category: str, tensors: Iterable[Tensor]) -> None:
        """Tensors that were there before the step."""
        self.adopt_memory_as(category, (tensor.untyped_storage() for tensor in tensors))

    def adopt_memory_as(self, category: str, storages: Iterable[torch.UntypedStorage]) -> None:
        """The same, of their memory."""
        before = len(self.lives)
        self.adopt_storages(storages)
        for life in self.lives[before:]:
            life.category = category

    def phase(self) -> str:
        """What the step is doing."""
        if self.updating:
            return OPTIMIZER
        if not self.forward_done:
            return FORWARD
        return RECOMPUTE if in_recompute() else BACKWARD

    def module(self) -> str:
        """Where the step is."""
        if self.path:
            return self.path[-1]
        return self.backward_of if self.forward_done and not self.updating else ""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator under its name; note what it read, wrote and computed."""
        if func is _DEVICE and isinstance(args[0], FakeTensor):  # asked for all the time
            return args[0].fake_device
        if func.namespace == "prim":
            return func(*args, **(kwargs or {}))
        self.operator = str(func.name()).removeprefix("aten::")
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self._note_work(func, args, kwargs or {}, out)
        return out

    def _note_work(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        moved_bytes = traffic_bytes(func, (args, kwargs), out)
        if not moved_bytes:
            return
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        dtype = str(outputs[0].dtype).removeprefix("torch.")
        flops = flops_of(func, args, kwargs, out)
        self.work.append(Operator(self.operator, flops, moved_bytes, dtype, self.phase()))

    # Where the step is.

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Follow modules and block boundaries."""
        before = register_module_forward_pre_hook(self._enter)
        after = register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        name = self.names.get(id(module))
        if name is None:
            return
        self.path.append(name)
        if module in self.blocks:
            self.mark_boundary(args)
            if module is self.blocks[0]:
                self._expect_backward_of("", args)

    def mark_boundary(self, value: Any) -> None:
        """Note that the first tensor of ``value`` is what one block hands to the next."""
        for tensor in tree_leaves(value)[:1]:
            if isinstance(tensor, Tensor):
                key = tensor.untyped_storage()._cdata
                if key in self.current:
                    self.boundaries.add(self.current[key])

    def _expect_backward_of(self, name: str, boundary: Any) -> None:
        """Once the gradient of ``boundary`` is there, backward is in the module before it."""
        for tensor in tree_leaves(boundary)[:1]:
            if self.phase() == FORWARD and isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(self._entering_backward_of(name))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        del args
        name = self.names.get(id(module))
        if name is None:
            return
        while self.path and self.path.pop() != name:
            pass  # modules that a stopped recompute left without a word
        if module in self.blocks and output is not None:
            self._leave_block(name, output)

    def _leave_block(self, name: str, output: Any) -> None:
        self.mark_boundary(output)
        self._expect_backward_of(name, output)
        if self.phase() == FORWARD:
            self.tail_begins = len(self.events)

    def _entering_backward_of(self, name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            del gradient
            self.backward_of = name

        return hook
