"""A schedule: a plan, and for each block how it runs and where its boundary rests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from strategies.schedules import plan as plans
from strategies.schedules.plan import Node, Plan

ALL = "all"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """All that an executor needs. Pure data.

    Attributes:
        plan: see `strategies.schedules.plan`.
        modes: one name a block, or none at all for ``all`` everywhere: how the block runs (see
            `schedules.modes.Mode`). Blocks in recompute groups run in mode ``all``: what an op
            policy kept when the group is run again would be gone when backward needs it, for
            nested checkpoints keep the graph of the first forward.
        offloaded: blocks whose input rests off the device, its transfers overlapped with compute
            (`strategies.storage.overlapped`); each begins a top-level group, and other groups'
            inputs stay as they are. ``None``: every top-level group's input rests as the
            strategy's storage says.

    Raises:
        ValueError: a block in a recompute group has another mode.
    """

    plan: Plan
    modes: tuple[str, ...] = ()
    offloaded: frozenset[int] | None = None

    def __post_init__(self) -> None:
        groups = [node for node in self.plan if not isinstance(node, int)]
        for index in (index for group in groups for index in plans.leaves(group)):
            if self.mode(index) != ALL:
                raise ValueError(
                    f"block {index} is in a recompute group and runs in mode {ALL},"
                    f" not {self.mode(index)}"
                )

    def split(self, borders: Sequence[int]) -> Schedule:
        """Every group cut where it straddles a border; see `plan.split`."""
        return dataclasses.replace(self, plan=plans.split(self.plan, borders))

    def mode(self, index: int) -> str:
        """How block ``index`` runs."""
        return self.modes[index] if self.modes else ALL

    def render(self) -> str:
        """``0:core 1 [2 3]@host``: modes other than ``all`` and boundaries elsewhere are said."""
        return " ".join(self._written(node) for node in self.plan)

    def _written(self, node: Node) -> str:
        if isinstance(node, int):
            mode = self.mode(node)
            return f"{node}" if mode == ALL else f"{node}:{mode}"
        inside = " ".join(self._written(child) for child in node)
        return f"[{inside}]" + ("@host" if plans.first(node) in (self.offloaded or ()) else "")
