"""What is alive, and who holds it; for the abstract machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from strategies.schedules.modes import Mode
from strategies.schedules.profile import ChainProfile
from strategies.schedules.sharing import Sharing

AGAIN = -1
"""When autocast ends that a recompute runs in, in the place of a position of forward."""


class Alive:
    """Bytes alive, and the most there were.

    Attributes:
        is_forward: of the step: the model is there, and the caller's autocast.
        holders: of each boundary and other tensor, how many there are.
        of_originals: of boundaries that are there twice, the holders of the first; `holders` counts
            those of the other.
        casts: bytes that autocast holds, by the position at which it ends.
    """

    def __init__(self, profile: ChainProfile) -> None:
        self.profile = profile
        self.alive_bytes = profile.resident_bytes
        self.peak_bytes, self.peak_phase = self.alive_bytes, "start"
        self.sharing, self.is_forward = Sharing(profile, self.hold, self.drop), True
        self.holders = [0] * len(self.sharing.sizes)
        self.of_originals: dict[int, int] = {}
        self.casts: Counter[int] = Counter()

    def visit(self, working_bytes: int, phase: str) -> None:
        """Something needs ``working_bytes`` above what is alive."""
        if self.alive_bytes + working_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_phase = self.alive_bytes + working_bytes, phase

    def hold(self, boundary: int) -> None:
        """One more reason for a boundary, or another tensor, to be alive."""
        if not self.holders[boundary]:
            self.alive_bytes += self.sharing.sizes[boundary]
        self.holders[boundary] += 1

    def drop(self, boundary: int) -> None:
        """One reason less."""
        self.holders[boundary] -= 1
        assert self.holders[boundary] >= 0
        if not self.holders[boundary]:
            self.alive_bytes -= self.sharing.sizes[boundary]

    def pass_back(self, boundary: int) -> None:
        """One reason less: the model's own, which saved the original of what is there twice."""
        if boundary not in self.of_originals:
            self.drop(boundary)
            return
        self.of_originals[boundary] -= 1
        if not self.of_originals[boundary]:
            self.alive_bytes -= self.sharing.sizes[boundary]

    def set_aside(self, boundaries: Iterable[int], copies: int = 0) -> list[int]:
        """Of these there will be another besides, which so many hold already; returns them."""
        aside = [boundary for boundary in boundaries if boundary not in self.of_originals]
        for boundary in aside:
            self.of_originals[boundary], self.holders[boundary] = self.holders[boundary], copies
        return aside

    def take_back(self, boundaries: Iterable[int]) -> None:
        """The other is gone."""
        for boundary in boundaries:
            self.holders[boundary] = self.of_originals.pop(boundary)

    def enter(self, index: int) -> None:
        """In forward, the model is there."""
        if self.is_forward:
            self.sharing.reach(index)
            self.end_casts(index)

    def leave(self, index: int) -> None:
        """And has run the block."""
        if self.is_forward:
            self.sharing.leave(index)

    def cast(self, index: int, mode: Mode | None = None) -> None:
        """A block has run: what autocast holds of it until its end, or that of the recompute."""
        block = self.profile.blocks[index]
        self.casts[block.casts.until if self.is_forward else AGAIN] += block.cast_bytes(mode)
        self.alive_bytes += block.cast_bytes(mode)

    def end_casts(self, position: int) -> None:
        """Autocast is over."""
        self.alive_bytes -= self.casts.pop(position, 0)
