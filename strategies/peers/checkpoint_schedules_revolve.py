"""Schedules of checkpoint_schedules, executed here as plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from torch import nn

from strategies.contract.peer import Peer
from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.execution.undo import Undo
from strategies.schedules.plan import Node, Plan

FAMILIES = ("revolve", "multistage")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSchedulesRevolve(Peer):
    """A schedule of Dolci, Maddison and Ham's checkpoint_schedules: theirs what, ours how.

    Their actions (run forward, keep, copy back, reverse) are read as groups within groups: what is
    run again from a snapshot is a group, and what is kept meanwhile begins groups inside it.

    Attributes:
        snapshots: boundaries that are kept at a time.
        family: ``revolve`` (Griewank and Walther 2000) or ``multistage`` (Stumm and Walther 2009),
            both in memory alone.
    """

    package: ClassVar[str] = "checkpoint_schedules"
    opaque: ClassVar[bool] = False
    shown: ClassVar[tuple[str, ...]] = ("snapshots",)

    snapshots: int = 3
    family: str = FAMILIES[0]

    def __post_init__(self) -> None:
        if self.snapshots < 1:
            raise ValueError(f"{self.name()}: snapshots must be at least 1, not {self.snapshots}")
        if self.family not in FAMILIES:
            valid = ", ".join(FAMILIES)
            raise ValueError(f"{self.name()}: family must be one of {valid}, not {self.family!r}")

    def plan(self, chain: Chain) -> Plan:
        """Their schedule for as many steps as there are blocks."""
        return read(self._actions(len(chain)), len(chain))

    def _actions(self, count: int) -> Iterable[Any]:
        import checkpoint_schedules as theirs  # noqa: PLC0415 - optional

        kept = min(self.snapshots, max(1, count - 1))  # more than steps it refuses
        revolve = self.family == FAMILIES[0]
        actions: Iterable[Any] = (
            theirs.Revolve(count, kept)
            if revolve
            else theirs.MultistageCheckpointSchedule(count, kept, 0)
        )
        return actions

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:  # noqa: ARG002
        """Nothing but the plan."""
        return ()

    @classmethod
    def grid(cls) -> Sequence[Strategy]:
        """Both families."""
        return tuple(cls(family=family) for family in FAMILIES)


def read(actions: Iterable[Any], count: int) -> Plan:
    """The plan that a schedule carries out.

    Args:
        actions: with the attributes of checkpoint_schedules' ``Forward``: ``n0``, ``n1``,
            ``write_ics`` (keep the boundary before step n0) and ``write_adj_deps`` (keep what the
            backward of the last step needs). Others, which move boundaries about, follow from them.
        count: of its steps.
    """
    forwards = (action for action in actions if hasattr(action, "write_ics"))
    return _span(forwards, 0, count)


def _span(forwards: Iterator[Any], begin: int, end: int) -> tuple[Node, ...]:
    """Steps from a boundary that is kept to one whose gradient is known: all of them reversed.

    They run forward, keeping boundaries on the way; the last is reversed at once, and the stretches
    between boundaries after it, from the last to the first, each again like this.
    """
    starts = [begin]
    for action in forwards:
        if action.write_ics and action.n0 != begin:
            starts.append(action.n0)
        if action.write_adj_deps:
            break
    ends = [*starts[1:], end - 1]
    stretches = [(one, other) for one, other in zip(starts, ends, strict=True) if one < other]
    groups = [_span(forwards, *stretch) for stretch in reversed(stretches)]
    return (*reversed(groups), end - 1)
