"""Budgets, in bytes or as a share, and how well a solution keeps one. No torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from strategies.schedules.interpreter import Prediction, predict
from strategies.schedules.plan import plain
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution

_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)},
}


_SIZE = re.compile(r"^\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*$", re.ASCII)


def parse(text: str) -> float | int:
    """A budget: bytes as an integer, or a share of what ``none`` needs as a fraction.

    Args:
        text: ``8GB`` (10⁹ bytes), ``8GiB`` (2³⁰), ``1234567``, or ``50%``.

    Raises:
        ValueError: none of these, or nothing left to use.
    """
    stripped = text.strip()
    match = _SIZE.match(stripped.removesuffix("%"))
    share = stripped.endswith("%")
    unit = match.group(2).upper() if match else "?"
    if match is None or unit not in _UNITS or (share and unit) or float(match.group(1)) <= 0:
        raise ValueError(f"a budget is written as 8GB, 8GiB, 123456 or 50%, not {text!r}")
    value = float(match.group(1))
    if value < 1 and not unit and not share:
        raise ValueError(f"a budget of {text!r} is no number of bytes; a share is written as 50%")
    return value / 100 if share else int(value * _UNITS[unit])


def resolve(text: str, profile: ChainProfile) -> int:
    """A budget in bytes; a share is of the predicted peak of a step in mode ``all``, no groups."""
    value = parse(text)
    if isinstance(value, int):
        return value
    none = predict(profile, Schedule(plain(len(profile.blocks))))
    return int(value * none.peak_bytes)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a solver answered for a budget, interpreted once.

    Attributes:
        profile: that it planned by.
        budget_bytes: of the peak.
        solution: its schedule, and the bound.
        prediction: what that schedule costs.
    """

    profile: ChainProfile
    budget_bytes: int
    solution: Solution
    prediction: Prediction

    @classmethod
    def of(cls, profile: ChainProfile, budget_bytes: int, solution: Solution) -> Answer:
        """Interpret a solution."""
        return cls(profile, budget_bytes, solution, predict(profile, solution.schedule))

    @property
    def schedule(self) -> Schedule:
        """The solution's."""
        return self.solution.schedule

    @property
    def bound_s(self) -> float:
        """The proven bound on the time of a step."""
        return self.profile.plain_step_s + self.solution.bound_s

    @property
    def gap_fraction(self) -> float:
        """How much longer a step takes than by the proven bound, as a share of the bound.

        No less than 0: sums of the same times in another order differ in the last bit.
        """
        return max(0.0, self.prediction.step_s / self.bound_s - 1)


def best(answers: Sequence[Answer]) -> Answer:
    """The fastest answer; the bound is that of all."""
    chosen = min(answers, key=lambda answer: answer.prediction.step_s)
    if len(answers) == 1:
        return chosen
    bound_s = min(answer.bound_s for answer in answers) - chosen.profile.plain_step_s
    return dataclasses.replace(
        chosen, solution=dataclasses.replace(chosen.solution, bound_s=bound_s)
    )


def counted(slot_bytes: int) -> str:
    """How finely memory was counted, in words."""
    return "to the byte" if slot_bytes == 1 else f"in {slot_bytes:,} bytes"
