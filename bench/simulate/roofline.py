"""Time of a step by a model: a roofline for each operator, and copies that overlap with them.

An operator takes a fixed launch, and then as long as the slower of its arithmetic and its memory
traffic needs at the device's peak rates (Williams, Waterman and Patterson 2009, «Roofline»). No
kernel reaches these peaks: `attained` adds what a measured one of its class stays below them.
Launches are not hidden behind the previous kernel here. Ratios between strategies are more
trustworthy than seconds.

Three resources work side by side: the stream of operators, and each direction of the host link.
Copies in one direction run in the order of their issue. A copy to the device also waits for all
copies to the host that were issued before it, since one of these may carry its data; that is exact
where the last tensor offloaded is the first one needed, as in a chain. Copies slow no operator
down, and have no fixed cost.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench.devices.accelerators import Accelerator
from bench.devices.efficiencies import class_of, fraction


@dataclass(frozen=True)
class Operator:
    """What one operator does.

    Attributes:
        name: for reports.
        flops: floating-point operations; a multiply-add is two.
        moved_bytes: read and written in device memory.
        dtype: whose rate counts, as PyTorch names it: ``bfloat16``.
        phase: for reports.
    """

    name: str
    flops: int
    moved_bytes: int
    dtype: str
    phase: str = ""


@dataclass(frozen=True)
class Transfer:
    """A copy over the host link.

    Attributes:
        position: how many operators were issued before; it starts no earlier than they end.
        size_bytes: how much.
        to_host: direction.
        needed_before: the operator (by index; the number of operators: the end of the step) that
            waits for it. ``None``: for a copy to the device, the operator at ``position``; for one
            to the host, none.
    """

    position: int
    size_bytes: int
    to_host: bool
    needed_before: int | None = None

    @property
    def awaited_at(self) -> int | None:
        """The operator that waits for it."""
        if self.needed_before is None and not self.to_host:
            return self.position
        return self.needed_before


@dataclass(frozen=True)
class StepTime:
    """Where a step's time goes, in seconds.

    Attributes:
        compute_s: of operators that arithmetic limits.
        memory_bound_s: of operators that memory traffic limits.
        launch_s: fixed cost of all operators.
        stall_s: operators waiting for copies.
    """

    compute_s: float
    memory_bound_s: float
    launch_s: float
    stall_s: float

    @property
    def step_s(self) -> float:
        """From the first operator's start to the last one's end."""
        return math.fsum((self.compute_s, self.memory_bound_s, self.launch_s, self.stall_s))


def operator_s(flops: int, bytes_moved: int, dtype: str, accelerator: Accelerator) -> float:
    """Seconds that one operator takes: its launch, then the slower of arithmetic and traffic."""
    arithmetic_s, traffic_s = _demands_s(flops, bytes_moved, dtype, accelerator)
    return accelerator.launch_overhead_s + max(arithmetic_s, traffic_s)


def _demands_s(
    flops: int, moved_bytes: int, dtype: str, accelerator: Accelerator
) -> tuple[float, float]:
    arithmetic_s = flops / accelerator.flops_per_s(dtype)
    return arithmetic_s, moved_bytes / accelerator.memory_bandwidth_bytes_per_s


def step_time(
    operators: Sequence[Operator],
    transfers: Iterable[Transfer],
    accelerator: Accelerator,
    *,
    prefetch: bool = False,
) -> StepTime:
    """Time of a step.

    Args:
        operators: in order.
        transfers: in order of issue where their positions are equal.
        accelerator: whose rates count.
        prefetch: copies to the device are issued one segment ahead; see `one_segment_ahead`.

    Raises:
        ValueError: a transfer refers to an operator that is not there, or is needed before its
            issue.
    """
    copies = list(transfers)
    for copy in copies:
        _check(copy, len(operators))
    link = _Link(accelerator, one_segment_ahead(copies) if prefetch else copies)
    stall_s = _run(operators, link, accelerator)
    demands = [_demands_s(o.flops, o.moved_bytes, o.dtype, accelerator) for o in operators]
    return StepTime(
        compute_s=math.fsum(a for a, t in demands if a >= t),
        memory_bound_s=math.fsum(t for a, t in demands if a < t),
        launch_s=len(operators) * accelerator.launch_overhead_s,
        stall_s=stall_s,
    )


def attained(operators: Iterable[Operator], accelerator: Accelerator) -> list[Operator]:
    """The same operators with as much more work as the device's kernels stay below its peak."""
    return [_slowed(op, fraction(accelerator, class_of(op.name))) for op in operators]


def _slowed(op: Operator, part: float) -> Operator:
    return replace(op, flops=round(op.flops / part), moved_bytes=round(op.moved_bytes / part))


def one_segment_ahead(transfers: Iterable[Transfer]) -> list[Transfer]:
    """The same copies, those to the device issued when the previous segment's were.

    A segment is what is fetched at one position; the first has no previous one, and stays.
    """
    copies = list(transfers)
    positions = sorted({copy.position for copy in copies if not copy.to_host})
    previous = dict(zip(positions[1:], positions, strict=False))
    return [
        copy
        if copy.to_host
        else replace(
            copy,
            position=previous.get(copy.position, copy.position),
            needed_before=copy.awaited_at,
        )
        for copy in copies
    ]


def _check(copy: Transfer, operators: int) -> None:
    if not 0 <= copy.position <= operators:
        raise ValueError(f"{copy}: the step has operators 0 to {operators - 1}")
    if copy.awaited_at is not None and not copy.position <= copy.awaited_at <= operators:
        raise ValueError(f"{copy}: needed before its issue, or after the step's {operators}")


class _Link:
    """The host link: when each direction is free again, and when operators may start."""

    def __init__(self, accelerator: Accelerator, transfers: Iterable[Transfer]) -> None:
        self.bytes_per_s = accelerator.link_bandwidth_bytes_per_s
        self.waiting: defaultdict[int, list[Transfer]] = defaultdict(list)
        for copy in transfers:
            self.waiting[copy.position].append(copy)
        self.to_host_free_s = self.to_device_free_s = 0.0
        self.ready_s: defaultdict[int, float] = defaultdict(float)

    def issue(self, position: int, now_s: float) -> None:
        """Start what is due at ``position``, or queue it behind earlier copies."""
        for copy in self.waiting.get(position, ()):
            end_s = self._end_s(copy, now_s)
            if copy.awaited_at is not None:
                self.ready_s[copy.awaited_at] = max(self.ready_s[copy.awaited_at], end_s)

    def _end_s(self, copy: Transfer, now_s: float) -> float:
        copy_s = copy.size_bytes / self.bytes_per_s
        if copy.to_host:
            self.to_host_free_s = max(now_s, self.to_host_free_s) + copy_s
            return self.to_host_free_s
        begin_s = max(now_s, self.to_device_free_s, self.to_host_free_s)
        self.to_device_free_s = begin_s + copy_s
        return self.to_device_free_s


def _run(operators: Sequence[Operator], link: _Link, accelerator: Accelerator) -> float:
    """Seconds for which operators wait for copies."""
    now_s = stall_s = 0.0
    for index in range(len(operators) + 1):
        link.issue(index, now_s)
        wait_s = max(0.0, link.ready_s.get(index, 0.0) - now_s)
        stall_s += wait_s
        now_s += wait_s
        if index < len(operators):
            op = operators[index]
            now_s += operator_s(op.flops, op.moved_bytes, op.dtype, accelerator)
    return stall_s
