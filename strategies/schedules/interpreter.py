"""What a schedule costs: an interpreter over a chain profile. Pure Python, no torch.

It shares no code with the executor or the solvers: it walks the plan as autograd would walk the
graph, and keeps a ledger of which bytes are held. Quantities are of one training step that starts
without gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from strategies.schedules.abstract_machine import Machine
from strategies.schedules.plan import Plan, forward_counts, leaves
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a plan costs.

    Attributes:
        peak_bytes: most alive at once.
        after_forward_bytes: alive when forward ends, resident bytes included.
        saved_bytes: alive when forward ends, resident bytes not included.
        recompute_flops: forward work done again.
        recompute_s: the time that this takes, by the profile's own clock.
        stall_s: the time for which compute waits for the link.
        step_s: time of the step by that clock, stalls included; 0 if the profile has no times.
        link_bytes: sent over the link and fetched again.
        block_forwards: how often each block's forward is entered.
        peak_phase: where the peak is: ``head``, ``forward 3``, ``tail``, ``backward 3`` …
    """

    peak_bytes: int
    after_forward_bytes: int
    saved_bytes: int
    recompute_flops: int
    recompute_s: float
    stall_s: float
    step_s: float
    link_bytes: int
    block_forwards: tuple[int, ...]
    peak_phase: str


def predict(
    profile: ChainProfile, schedule: Schedule | Plan, resting_bytes: Sequence[int] | None = None
) -> Prediction:
    """Interpret a schedule over ``profile``.

    Args:
        profile: see `ChainProfile`.
        schedule: for ``len(profile.blocks)`` blocks; or a plan alone, its blocks in their first
            modes.
        resting_bytes: bytes on the device of each boundary while it waits as the input of a
            top-level group (compressed or offloaded); default: as it is.

    Raises:
        ValueError: a block runs in a mode that the profile does not know, or in a group in another
            than its first.
    """
    if not isinstance(schedule, Schedule):
        schedule = profile.schedule(schedule)
    _check_groups(profile, schedule)
    plan = schedule.plan
    resting = [profile.boundary_bytes(index) for index in range(len(profile.blocks))]
    if resting_bytes is not None:
        resting = list(resting_bytes)
    machine = Machine(profile, resting, schedule)
    machine.forward(plan)
    after_forward_bytes = machine.alive_bytes
    machine.backward(plan)
    return Prediction(
        peak_bytes=machine.peak_bytes,
        after_forward_bytes=after_forward_bytes,
        saved_bytes=after_forward_bytes - profile.resident_bytes,
        recompute_flops=machine.recompute_flops,
        recompute_s=machine.recompute_s,
        stall_s=machine.link.stall_s,
        step_s=profile.plain_step_s + machine.recompute_s + machine.link.stall_s,
        link_bytes=machine.link.moved_bytes,
        block_forwards=tuple(forward_counts(plan, len(profile.blocks))),
        peak_phase=machine.peak_phase,
    )


def _check_groups(profile: ChainProfile, schedule: Schedule) -> None:
    groups = (node for node in schedule.plan if not isinstance(node, int))
    for index in (index for group in groups for index in leaves(group)):
        if schedule.mode(index) != profile.first_modes[index]:
            raise ValueError(
                f"what block {index} costs in a group is known of mode"
                f" {profile.first_modes[index]}, not of {schedule.mode(index)}"
            )
