"""What `strategies.solvers.milp` chooses between: variables, and which values nest.

Indices are stages t = 0 … L (L: forward and tail) and blocks i. Stage t < L is the recompute that
ends with block t, if there is one, and the backward of block t. Expressions are typed `Any`: they
are highspy's, or numbers where nothing is left to choose. Imported on first use: brings HiGHS.
"""

from __future__ import annotations

from typing import Any

from strategies.schedules.modes import Mode
from strategies.schedules.profile import ChainProfile
from strategies.solvers import highs
from strategies.solvers.highs import total

TOLERANCE = 1e-9  # of the largest number; the solver's own 1e-6 is a megabyte in a terabyte

_OPTIONS: dict[str, Any] = {
    "presolve": "off",  # HiGHS 1.16 reduces some of these to nothing and then finds no way back
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 0.0,
    "mip_feasibility_tolerance": TOLERANCE,
    "primal_feasibility_tolerance": TOLERANCE,
}


class Choices:
    """What is kept and what runs, and which of that nested checkpoints can do.

    Attributes:
        bare: [t, i, mode] block i's saved tensors are kept when stage t's forward is over.
        starts: [t, i] boundary i is kept, for a recompute group to begin from.
        held: [t, i] boundary i is alive after stage t's forward, for whatever reason.
        runs: [t, i] block i < t runs forward in stage t < L. In stage L all do.
    """

    def __init__(self, profile: ChainProfile) -> None:
        self.profile, self.count = profile, len(profile.blocks)
        self.model = highs.new_model(**_OPTIONS)
        self.bare: dict[tuple[int, int, int], Any] = {}
        self.starts: dict[tuple[int, int], Any] = {}
        self.held: dict[tuple[int, int], Any] = {}
        self.runs: dict[tuple[int, int], Any] = {}
        for t in range(self.count + 1):
            self._declare(t)
        for t in range(self.count + 1):
            self._hold(t)
            self._nest(t)
            if t < self.count:
                self._stay(t)
                self._run(t)

    def _declare(self, t: int) -> None:
        binary = self.model.addBinary
        for i in range(t):
            self.bare |= {(t, i, m): binary() for m in range(len(self.modes(i)))}
            self.starts[t, i] = binary()
            self.runs[t, i] = binary() if t < self.count else 1
        self.held |= {(t, i): self.model.addVariable(0, 1) for i in range(t + 1)}

    def require(self, constraint: Any) -> None:
        """Add one constraint."""
        self.model.addConstr(constraint)

    def modes(self, i: int) -> tuple[Mode, ...]:
        """The ways to run block i bare."""
        return self.profile.blocks[i].modes

    def is_bare(self, t: int, i: int) -> Any:
        """Block i's saved tensors are kept after stage t's forward, whatever its mode."""
        return total(self.bare[t, i, m] for m in range(len(self.modes(i))))

    def is_last(self, t: int) -> Any:
        """Block t runs again in its own stage, as the last of its group."""
        return 1 - self.is_bare(t + 1, t)

    def begins(self, t: int, i: int) -> Any:
        """After stage t's forward, block i is bare or the first of a group."""
        return self.starts[t, i] + self.is_bare(t, i)

    def _hold(self, t: int) -> None:
        """Why a boundary is alive. For its own backward, block t is as stage t + 1 left it."""
        for i in range(t):
            self.require(self.held[t, i] >= self.starts[t, i])
            self._hold_for(t, i, t)
        if t < self.count:
            self.require(self.held[t, t] >= self.starts[t + 1, t])
            self._hold_for(t, t, t + 1)
            if self.modes(t)[0].keeps_input:
                self.require(self.held[t, t] >= self.is_last(t))
        elif self.profile.tail_keeps_input:
            self.require(self.held[t, t] >= 1)

    def _hold_for(self, t: int, i: int, since: int) -> None:
        for m, mode in enumerate(self.modes(i)):
            if mode.keeps_input:
                self.require(self.held[t, i] >= self.bare[since, i, m])
            if mode.keeps_output and i < t:
                self.require(self.held[t, i + 1] >= self.bare[since, i, m])

    def _nest(self, t: int) -> None:
        """After each stage, the blocks lie in groups and bare ones, one behind the other."""
        for i in range(t):
            new = self.starts[t, i] - (self.starts[t + 1, i] if t < self.count else 0)
            self.require(new + self.is_bare(t, i) <= 1)
            if i == 0 or i in self.profile.borders:
                self.require(self.begins(t, i) >= 1)
            if i + 1 < t:
                self.require(self.begins(t, i + 1) >= self.is_bare(t, i))

    def _stay(self, t: int) -> None:
        """What is kept stays until its backward; what is new was made by running."""
        for i in range(t):
            self.require(self.starts[t, i] >= self.starts[t + 1, i])
            for m in range(len(self.modes(i))):
                self.require(self.bare[t, i, m] >= self.bare[t + 1, i, m])
                if m:  # other modes are for blocks outside groups, which are bare from the start
                    self.require(self.bare[t, i, m] <= self.bare[self.count, i, m])
            self.require(self.is_bare(t, i) - self.is_bare(t + 1, i) <= self.runs[t, i])
            if i:
                self.require(self.starts[t, i] - self.starts[t + 1, i] <= self.runs[t, i - 1])

    def _run(self, t: int) -> None:
        """A recompute runs from the start of a group to block t, and is that whole group."""
        for i in range(t):
            following = self.runs[t, i + 1] if i + 1 < t else self.is_last(t)
            self.require(self.runs[t, i] <= following)
            self.require(self.runs[t, i] + self.starts[t + 1, i + 1] <= 1)
        for i in range(t + 1):
            run = self.runs[t, i] if i < t else self.is_last(t)
            before = self.runs[t, i - 1] if i else 0
            self.require(run <= self.starts[t + 1, i] + before)
