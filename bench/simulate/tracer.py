"""A step's memory in full: every storage's life, what it is, and which operator made it.

The same on real and on fake tensors. Categories are decided when the step is over, because only
then is it known what a storage was for.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._pytree import tree_leaves

from bench.simulate.roofline import Operator, Transfer
from strategies.execution.dispatch import flops_of, in_recompute
from strategies.profiling.ledger import Ledger, traffic_bytes

# Drawn from the bottom up in this order.
CATEGORIES = (
    "parameters",
    "optimizer state",
    "gradients",
    "batch",
    "boundary activations",
    "saved tensors",
    "recomputed activations",
    "logits and loss",
    "temporaries",
)

FORWARD, RECOMPUTE, BACKWARD, OPTIMIZER = "forward", "recompute", "backward", "optimizer"
TAIL = "loss"
"""Stands for the module where backward is not yet in any block."""


@dataclasses.dataclass
class Life:
    """One storage.

    Attributes:
        size_bytes: as requested.
        phase: in which it was born.
        operator: that made it (empty: it was there before).
        module: in whose forward, or in the backward of which block.
        category: one of `CATEGORIES`.
        born: index of the event.
        died: index of the event; ``None`` while it lives.
    """

    size_bytes: int
    phase: str
    operator: str
    module: str
    category: str = "temporaries"
    born: int = 0
    died: int | None = None


@dataclasses.dataclass(frozen=True)
class Event:
    """A birth or a death."""

    life: int
    delta_bytes: int
    phase: str
    operator: str
    module: str


@dataclasses.dataclass
class Trace:
    """One step.

    Attributes:
        resident_events: how many events tell of what was there before.
        forward_events: how many events came before forward was done.
    """

    lives: list[Life]
    events: list[Event]
    work: list[Operator]
    transfers: list[Transfer]
    resident_events: int
    forward_events: int
    forward_flops: int
    step_flops: int
    recompute_flops: int

    def alive_bytes(self, round_to: int = 1) -> list[int]:
        """Bytes alive after each event, each storage rounded up to a multiple of ``round_to``."""
        total, found = 0, []
        for event in self.events:
            size = -(-abs(event.delta_bytes) // round_to) * round_to
            total += size if event.delta_bytes > 0 else -size
            found.append(total)
        return found

    def after_forward_bytes(self, round_to: int = 1) -> int:
        """Bytes alive when forward was done, resident ones included."""
        return self.alive_bytes(round_to)[self.forward_events - 1]

    def resident_bytes(self, round_to: int = 1) -> int:
        """Bytes alive before the step."""
        return self.alive_bytes(round_to)[self.resident_events - 1]

    def by_category(self, event: int) -> dict[str, int]:
        """Bytes alive after ``event``, by category."""
        found: Counter[str] = Counter()
        for life in self.lives:
            if life.born <= event and (life.died is None or life.died > event):
                found[life.category] += life.size_bytes
        return {name: found[name] for name in CATEGORIES if found[name]}

    def series(self) -> dict[str, list[int]]:
        """For each category, bytes alive after each event."""
        totals = dict.fromkeys(CATEGORIES, 0)
        found: dict[str, list[int]] = {name: [] for name in CATEGORIES}
        for event in self.events:
            totals[self.lives[event.life].category] += event.delta_bytes
            for name in CATEGORIES:
                found[name].append(totals[name])
        return found


class Tracer(Ledger):
    """Writes a `Trace` while it is active."""

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.names = {id(module): name or "model" for name, module in model.named_modules()}
        self.blocks = list(blocks)
        self.lives: list[Life] = []
        self.events: list[Event] = []
        self.work: list[Operator] = []
        self.transfers: list[Transfer] = []
        self.current: dict[int, int] = {}  # a storage's key to the index of its life
        self.boundaries: set[int] = set()
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
        before = len(self.lives)
        self.adopt(tensors)
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
        if func.namespace != "prim":  # fake tensors ask for devices in between
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


@dataclasses.dataclass(frozen=True)
class Parts:
    """A step's parts, as callables, and the tensors that outlive it.

    Attributes:
        forward: returns the loss.
        backward: accumulates gradients.
        update: the optimizer's step.
        resident: tensors that are there before, by category.
        parameters: whose gradients are to be found afterwards.
        semantics: entered around the tracer, which sees what kernels return, not how they are
            replaced; see `bench.simulate.semantics`.
    """

    forward: Callable[[], Tensor]
    backward: Callable[[Tensor], None]
    update: Callable[[], None]
    resident: dict[str, list[Tensor]]
    parameters: Sequence[nn.Parameter]
    semantics: contextlib.AbstractContextManager[object] = dataclasses.field(
        default_factory=contextlib.nullcontext
    )


def trace(tracer: Tracer, parts: Parts) -> Trace:
    """Run one step under ``tracer``. No gradients exist before."""
    for category, tensors in parts.resident.items():
        tracer.adopt_as(category, tensors)
    resident_events = len(tracer.events)
    with parts.semantics, tracer, tracer.watching():
        loss = parts.forward()
        forward_events, forward_flops = len(tracer.events), tracer.flops
        tracer.forward_done = True
        parts.backward(loss)
        del loss
        step_flops = tracer.flops
        tracer.path.clear()
        tracer.updating = True
        parts.update()
    _categorise(tracer, parts, forward_events)
    tracer.current.clear()
    return Trace(
        lives=tracer.lives,
        events=tracer.events,
        work=tracer.work,
        transfers=tracer.transfers,
        resident_events=resident_events,
        forward_events=forward_events,
        forward_flops=forward_flops,
        step_flops=step_flops,
        recompute_flops=tracer.recompute_flops,
    )


def _categorise(tracer: Tracer, parts: Parts, forward_events: int) -> None:
    keys = {p.grad.untyped_storage()._cdata for p in parts.parameters if p.grad is not None}
    gradients = {tracer.current[key] for key in keys}
    states = {"parameters", "optimizer state", "batch"}
    for index, life in enumerate(tracer.lives):
        if life.category in states:
            continue
        if index in gradients:
            life.category = "gradients"
        elif life.phase == OPTIMIZER and life.died is None:
            life.category = "optimizer state"
        elif life.phase == RECOMPUTE:
            life.category = "recomputed activations"
        elif index in tracer.boundaries:
            life.category = "boundary activations"
        elif life.phase == FORWARD:
            life.category = _of_forward(tracer, index, forward_events)
        elif (life.phase, life.module) == (BACKWARD, TAIL):
            life.category = "logits and loss"  # their gradients


def _of_forward(tracer: Tracer, index: int, forward_events: int) -> str:
    life = tracer.lives[index]
    if tracer.tail_begins is not None and life.born >= tracer.tail_begins:
        return "logits and loss"
    kept = life.died is None or life.died >= forward_events
    return "saved tensors" if kept else "temporaries"
