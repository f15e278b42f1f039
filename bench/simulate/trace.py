"""A step's memory in full: every storage's life, what it is, which operator made it. Data alone."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

from bench.devices.accelerators import Accelerator
from bench.devices.workspaces import bytes_of_handle, bytes_per_handle
from bench.simulate.roofline import Operator, Transfer
from strategies.profiling.free_blocks import round_up

STANDING = "standing tensors"
"""In attributes of modules from step to step: tables, last results."""
# Drawn from the bottom up in this order.
CATEGORIES = (
    "parameters",
    "optimizer state",
    STANDING,
    "gradients",
    "gathered parameters",
    "gradient buckets",
    "pipeline buffers",
    "batch",
    "boundary activations",
    "saved tensors",
    "recomputed activations",
    "logits and loss",
    "temporaries",
)

FORWARD, RECOMPUTE, BACKWARD, OPTIMIZER = "forward", "recompute", "backward", "optimizer"
PRODUCTS = ("mm", "mm.out")
"""How the names of operators end that cuBLAS runs: ``mm``, ``addmm``, ``bmm``, ``baddbmm``."""
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
        is_scratch: a kernel took it and gave it back inside one call.
    """

    size_bytes: int
    phase: str
    operator: str
    module: str
    category: str = "temporaries"
    born: int = 0
    died: int | None = None
    is_scratch: bool = False


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
        total, alive = 0, []
        for event in self.events:
            size = round_up(abs(event.delta_bytes), round_to)
            total += size if event.delta_bytes > 0 else -size
            alive.append(total)
        return alive

    def after_forward_bytes(self, round_to: int = 1) -> int:
        """Bytes alive when forward was done, resident ones included."""
        return self.alive_bytes(round_to)[self.forward_events - 1]

    def resident_bytes(self, round_to: int = 1) -> int:
        """Bytes alive before the step."""
        return self.alive_bytes(round_to)[self.resident_events - 1]

    def by_category(self, event: int) -> dict[str, int]:
        """Bytes alive after ``event``, by category."""
        sizes: Counter[str] = Counter()
        for life in self.lives:
            if life.born <= event and (life.died is None or life.died > event):
                sizes[life.category] += life.size_bytes
        return {name: sizes[name] for name in CATEGORIES if sizes[name]}

    def workspaces(self, device: Accelerator) -> list[int]:
        """Bytes of each workspace that the step's matrix products make a library keep."""
        return workspaces(self.work, bytes_per_handle(device))

    def workspaces_of(self, capability: tuple[int, int]) -> list[int]:
        """The same on a CUDA device that is here."""
        return workspaces(self.work, bytes_of_handle(capability))

    def series(self) -> dict[str, list[int]]:
        """For each category, bytes alive after each event."""
        totals = dict.fromkeys(CATEGORIES, 0)
        series: dict[str, list[int]] = {name: [] for name in CATEGORIES}
        for event in self.events:
            totals[self.lives[event.life].category] += event.delta_bytes
            for name in CATEGORIES:
                series[name].append(totals[name])
        return series


def workspaces(
    work: Iterable[Operator], handle_bytes: int, *, multiplied: bool = False
) -> list[int]:
    """Bytes of each workspace that matrix products make a library keep, one a thread.

    Args:
        work: forward runs in the main thread, all else in autograd's.
        handle_bytes: of one.
        multiplied: whether the main thread multiplied matrices before.
    """
    threads = {op.phase == FORWARD for op in work if op.name.endswith(PRODUCTS)}
    return [handle_bytes] * len(threads | ({True} if multiplied else set()))
