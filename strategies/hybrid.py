"""Offload and recompute together, of whole blocks and inside them, within a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from strategies.contract.budgeted import Budgeted
from strategies.execution.chain import Chain
from strategies.schedules import budget as budgets
from strategies.schedules.budget import Answer
from strategies.schedules.interpreter import Prediction
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import HOST
from strategies.schedules.solution import Solution, fastest
from strategies.storage import Overlapped, Storage
from strategies.storage.auto import check, no_other_place, tier_of

AUTO = "auto"
MOST_SENDING = 128
"""Of a chain whose kept outputs may leave: so long ones are planned in seconds, tried."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hybrid(Budgeted):
    """Each boundary stays, leaves over the link beside compute, or is recomputed from an earlier.

    POFO (Beaumont, Eyraud-Dubois and Shilova 2021, «Efficient combination of rematerialization and
    offloading for training DNNs», NeurIPS). See `strategies.solvers.hybrid`; transfers are those of
    `strategies.storage.overlapped`. Where the link leads to the host, outputs of operators are kept
    too, on the device or there (`strategies.solvers.selective_ops_sent`), beside boundaries that
    leave. On a disk they are not: what Python takes for each operator is in no profile, and nothing
    is timed here.

    Attributes:
        link: bytes per second each way: ``25GB/s``; ``auto``: the device's, as far as it is known.
        tier: ``host``, ``disk`` or ``auto``; see `strategies.offload`.
        directory: where the files go; default the system's temporary folder.
    """

    textbook_compute: ClassVar[str | None] = "larger of compute and link"
    operators: ClassVar[bool] = True
    among: ClassVar[str] = "such schedule"

    link: str = AUTO
    tier: str = AUTO
    directory: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("hybrid", self.tier, self.directory)
        if self.link != AUTO:
            rate(self.link)

    def unsupported(self, model: nn.Module, device: torch.device) -> str | None:
        """Host memory is no other place than a CPU's own."""
        return no_other_place(self.tier, device) or super().unsupported(model, device)

    def storage(self) -> Storage:
        """Boundaries as they are, on another tier."""
        return Storage(tier=Overlapped(tier_of(self.tier, self.directory)))

    def profile_of(self, chain: Chain) -> ChainProfile:
        """The chain's profile with this strategy's link."""
        profile = super().profile_of(chain)
        if self.tier != AUTO:
            profile = dataclasses.replace(profile, link_tier=self.tier)
        if self.link == AUTO:
            return profile
        return dataclasses.replace(profile, link_bytes_per_s=rate(self.link))

    def solution(self, profile: ChainProfile, budget_bytes: int) -> Solution | None:
        """The fastest of `solutions`."""
        return fastest(profile, self.solutions(profile, budget_bytes))

    def solutions(self, profile: ChainProfile, budget_bytes: int) -> list[Solution]:
        """Whole blocks first (see `strategies.solvers.hybrid.solve`); the bound holds for all."""
        from strategies.solvers import hybrid  # noqa: PLC0415 - brings a compiler

        whole = hybrid.solve(profile, budget_bytes)
        if not may_send_outputs(profile):
            return [whole] if whole else []
        from strategies.solvers import (  # noqa: PLC0415 - bring another
            selective_ops,
            selective_ops_pooled,
            selective_ops_sent,
        )

        kept = selective_ops_pooled.solve(profile, budget_bytes)
        sent = selective_ops_sent.solve(profile, budget_bytes)
        solutions = {one.schedule: one for one in (whole, kept, sent) if one is not None}
        bounds = [one.bound_s for one in solutions.values()]
        if kept is None:  # what fits may have escaped it
            bounds.append(selective_ops.bound_s(profile, budget_bytes))
        return [dataclasses.replace(one, bound_s=min(bounds)) for one in solutions.values()]

    def smallest_bytes(self, profile: ChainProfile) -> int:
        """The smallest of all; not above that of `optimal`."""
        from strategies.solvers import hybrid  # noqa: PLC0415 - as above

        size_bytes = hybrid.smallest_bytes(profile)
        if not may_send_outputs(profile):
            return size_bytes
        from strategies.solvers import selective_ops  # noqa: PLC0415 - as above

        return min(size_bytes, selective_ops.smallest_bytes(profile))

    def remarks(self, answer: Answer) -> Sequence[str]:
        """How much of the budget is used, what crosses the link, and how far the bound is."""
        used, gap = super().remarks(answer)
        return used, traffic(answer.profile, answer.prediction), gap

    @classmethod
    def grid(cls) -> Sequence[Hybrid]:
        """A tight budget and a loose one."""
        return tuple(cls(budget=budget) for budget in ("40%", "70%"))


def may_send_outputs(profile: ChainProfile) -> bool:
    """Whether what blocks keep may leave: there is something, and the link leads to the host."""
    known = any(block.operators is not None for block in profile.blocks)
    to_host = profile.link_bytes_per_s > 0 and profile.link_tier == HOST
    return known and to_host and len(profile.blocks) <= MOST_SENDING


def rate(text: str) -> int:
    """Bytes per second, written as ``25GB/s``.

    Raises:
        ValueError: anything else.
    """
    problem = f"a link is written as 25GB/s or 3.2GiB/s, or auto; not {text!r}"
    size, per, unit = text.partition("/")
    try:
        value = budgets.parse(size)
    except ValueError as error:
        raise ValueError(problem) from error
    if (per, unit.strip()) != ("/", "s") or not isinstance(value, int) or value < 1:
        raise ValueError(problem)
    return value


def traffic(profile: ChainProfile, predicted: Prediction) -> str:
    """What crosses the link in a step, and whether compute waits for it."""
    if not predicted.link_bytes:
        return "nothing crosses the link"
    crossed = f"{predicted.link_bytes:,} bytes cross the link both ways taken together"
    share = predicted.stall_s / predicted.step_s
    moving_s = predicted.link_bytes / profile.link_bytes_per_s
    bound = "the link" if moving_s > predicted.step_s - predicted.stall_s else "compute"
    return f"{crossed}; compute waits {share:.2%} of the step for it, and {bound} bounds the step"
