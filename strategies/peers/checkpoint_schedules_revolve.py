"""Schedules of checkpoint_schedules, executed here as plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from strategies.contract.peer import Peer
from strategies.execution.chain import Chain
from strategies.schedules import plan as plans
from strategies.schedules.plan import Node, Plan

SCHEDULES = ("revolve", "multistage")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSchedulesRevolve(Peer):
    """A schedule of Dolci, Maddison and Ham's checkpoint_schedules: theirs what, ours how.

    Their actions (run forward, keep, copy back, reverse) are read as groups within groups: what is
    run again from a snapshot is a group, and what is kept meanwhile begins groups inside it.

    Attributes:
        snapshots: boundaries that are kept at a time.
        schedule: ``revolve`` (Griewank and Walther 2000) or ``multistage`` (Stumm and Walther 2009)
            in memory alone.
    """

    package: ClassVar[str] = "checkpoint_schedules"
    opaque: ClassVar[bool] = False
    shown: ClassVar[tuple[str, ...]] = ("snapshots",)

    snapshots: int = 3
    schedule_name: str = SCHEDULES[0]
