"""The clock of the link between a device and where boundaries are offloaded. Pure Python, no torch.

Part of the plan interpreter (`schedules.interpreter`): it says when compute waits, not what is
alive.
"""

from __future__ import annotations

from strategies.schedules.profile import ChainProfile


class Link:
    """One boundary leaves, or comes, at a time, while compute goes on.

    See `strategies.storage.overlapped`. Nothing crosses while head, tail and optimizer run, for the
    executor waits for the last boundary to leave when the chain's forward ends, and calls for the
    first one to come when it needs it.

    Attributes:
        earlier: which boundary is called for when one is fetched.
        leaving: the boundary that leaves now.
        called_for: the boundary that was called for last.
        stall_s: for how long compute has waited so far.
        moved_bytes: that have started to cross so far.
    """

    def __init__(self, profile: ChainProfile, offloaded: frozenset[int]) -> None:
        self.profile = profile
        before = sorted(offloaded)
        self.earlier = dict(zip(before[1:], before, strict=False))
        self.leaving: int | None = None
        self.called_for: int | None = None
        self.now_s = self.free_s = self.stall_s = 0.0
        self.moved_bytes = 0

    def compute(self, seconds: float) -> None:
        """Compute goes on."""
        self.now_s += seconds

    def start(self, boundary: int) -> None:
        """A transfer starts."""
        self.free_s = max(self.now_s, self.free_s) + self.profile.transfer_s(boundary)
        self.moved_bytes += self.profile.boundary_bytes(boundary)

    def wait(self) -> None:
        """Compute goes on when the transfer is complete."""
        self.stall_s += max(0.0, self.free_s - self.now_s)
        self.now_s = max(self.now_s, self.free_s)
