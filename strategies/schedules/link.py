"""The clock of the link between a device and where tensors are sent. Pure Python, no torch.

Part of the plan interpreter (`schedules.interpreter`): it says when compute waits, not what is
alive.
"""

from __future__ import annotations

from strategies.schedules.modes import away_by
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule


def cargo_of(profile: ChainProfile, schedule: Schedule) -> dict[int, int]:
    """Bytes that cross the link, by the block that sends its boundary, or outputs that it keeps."""
    cargo = {index: profile.boundary_bytes(index) for index in schedule.offloaded}
    for index, name in enumerate(schedule.modes):
        if away_by(name) and (size_bytes := profile.blocks[index].mode(name).away_bytes):
            cargo[index] = size_bytes
    return cargo


class Link:
    """One block's cargo leaves, or comes, at a time, while compute goes on.

    See `strategies.storage.overlapped`. Nothing crosses while head, tail and optimizer run, for the
    executor waits for the last cargo to leave when the chain's forward ends, and calls for the
    first one to come when it needs it.

    Attributes:
        cargo: bytes by block: of the boundary that it reads, or of the outputs that it keeps.
        earlier: whose cargo is called for when one is fetched.
        leaving: the block whose cargo leaves now.
        called_for: the block whose cargo was called for last.
        stall_s: for how long compute has waited so far.
        moved_bytes: that have started to cross so far.
    """

    def __init__(self, profile: ChainProfile, schedule: Schedule) -> None:
        self.profile, self.cargo = profile, cargo_of(profile, schedule)
        before = sorted(self.cargo)
        self.earlier = dict(zip(before[1:], before, strict=False))
        self.leaving: int | None = None
        self.called_for: int | None = None
        self.now_s = self.free_s = self.stall_s = 0.0
        self.moved_bytes = 0

    def compute(self, seconds: float) -> None:
        """Compute goes on."""
        self.now_s += seconds

    def start(self, block: int) -> None:
        """A transfer starts."""
        size_bytes = self.cargo[block]
        self.free_s = max(self.now_s, self.free_s) + self.profile.crossing_s(size_bytes)
        self.moved_bytes += size_bytes

    def wait(self) -> None:
        """Compute goes on when the transfer is complete."""
        self.stall_s += max(0.0, self.free_s - self.now_s)
        self.now_s = max(self.now_s, self.free_s)
