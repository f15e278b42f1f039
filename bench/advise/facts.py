"""What advice says, as plain data; no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bench.store.parts import Status


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the advice is for.

    Attributes:
        workload: its name, or the model's class.
        options: its shape.
        device: as it was asked for.
        product: the device as its maker calls it.
        modelled: whether it was not there.
        precision: see `bench.cells.training.PRECISIONS`.
        optimizer: see `bench.cells.optimizers.OPTIMIZERS`.
        room_bytes: that the step may take.
        room: what that is: the device's memory, or a budget.
        torch_version: with which all was found out.
    """

    workload: str
    options: Mapping[str, Any]
    device: str
    product: str
    modelled: bool
    precision: str
    optimizer: str
    room_bytes: int
    room: str
    torch_version: str


@dataclasses.dataclass(frozen=True)
class Candidate:
    """The step under one strategy, as `run` records it.

    Attributes:
        spec: of the strategy.
        status: ``ok`` fits.
        reason: of another status.
        plan: what is kept and what is recomputed; blocks in brackets together.
        peak_allocated_bytes: most bytes allocated at once; ``None``: it did not run.
        peak_reserved_bytes: most bytes that the allocator holds, where there is one.
        recompute_of_forward: FLOPs that are done again, of one forward.
        step_ratio: time of a step over that of `none`.
        notes: what the strategy says of itself here.
    """

    spec: str
    status: Status
    reason: str | None
    plan: str | None
    peak_allocated_bytes: int | None
    peak_reserved_bytes: int | None
    recompute_of_forward: float | None
    step_ratio: float | None
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.status == "ok"


@dataclasses.dataclass(frozen=True)
class PeakOf:
    """Where the peak of the step as it is, is, and what it is made of; modelled.

    Attributes:
        size_bytes: of tensors.
        phase: of the step.
        module: in whose forward or backward.
        operator: that ran.
        by_category: bytes.
        saved_by_operator: of saved tensors, bytes by the operator that made them.
        floor_bytes: that checkpointing whole blocks cannot go below.
        sentence: whether checkpointing can lower it.
    """

    size_bytes: int
    phase: str
    module: str
    operator: str
    by_category: Mapping[str, int]
    saved_by_operator: Mapping[str, int]
    floor_bytes: int
    sentence: str


@dataclasses.dataclass(frozen=True)
class Remedy:
    """Something else than checkpointing, tried alone; modelled.

    Attributes:
        name: what to do.
        how: it was computed, or why it would not help.
        peak_allocated_bytes: with it; ``None``: it cannot be done here.
        saved_bytes: of the peak without it.
        fits: whether the step then does.
        helps: whether it saves enough to be named.
    """

    name: str
    how: str
    peak_allocated_bytes: int | None
    saved_bytes: int
    fits: bool
    helps: bool


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest size that fits; modelled.

    Attributes:
        axis: ``batch`` or ``seq``.
        spec: of the strategy.
        now: what it is.
        value: the largest; 0: not even the smallest fits.
    """

    axis: str
    spec: str
    now: int
    value: int


@dataclasses.dataclass(frozen=True)
class Facts:
    """What to do about one model on one device.

    Attributes:
        setting: what it is for.
        candidates: strategies; the first is `none`, the step as it is.
        chosen: the specification of the fastest that fits; ``None``: none does.
        line: of code that applies it; empty where nothing is to be done, or nothing fits.
        peak: of the step as it is.
        base: the specification of the step that remedies are tried on.
        remedies: most bytes first.
        largest: sizes.
    """

    setting: Setting
    candidates: tuple[Candidate, ...]
    chosen: str | None
    line: str
    peak: PeakOf
    base: str
    remedies: tuple[Remedy, ...]
    largest: tuple[Largest, ...]

    @property
    def as_it_is(self) -> Candidate:
        """The step without a strategy."""
        return self.candidates[0]

    @property
    def fits(self) -> bool:
        """Whether the step does as it is."""
        return self.as_it_is.fits

    @property
    def strategy(self) -> Candidate | None:
        """The chosen one."""
        return next((one for one in self.candidates if one.spec == self.chosen), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as JSON has it."""
        facts: dict[str, Any] = dataclasses.asdict(self)
        return {"fits": self.fits, **facts}
