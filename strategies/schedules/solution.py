"""What a solver answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from strategies.schedules.interpreter import predict
from strategies.schedules.profile import ChainProfile
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


def fastest(profile: ChainProfile, solutions: Iterable[Solution | None]) -> Solution | None:
    """The one whose step takes least, by the profile; of equal ones the first; ``None``: no one."""
    return min(
        filter(None, solutions),
        key=lambda one: predict(profile, one.schedule).step_s,
        default=None,
    )
