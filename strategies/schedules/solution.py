"""What a solver answers."""

from __future__ import annotations

import dataclasses

from strategies.schedules.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Solution:
    """A schedule within a budget, and how good it can be at most.

    Attributes:
        schedule: within the budget, by the interpreter.
        bound_s: no schedule of the solver's kind within the budget adds less than this to a step
            without checkpoints.
        slot_bytes: how finely memory was counted for the bound; 1: to the byte.
    """

    schedule: Schedule
    bound_s: float
    slot_bytes: int = 1
