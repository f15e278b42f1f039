"""The parts that a record is put together from: what one pass of a measurement says.

Each is a struct whose fields are fields of the record, so that a misspelt one is a type error; a
test holds names and types together.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Status = Literal["ok", "oom", "timeout", "crash", "unsupported", "mismatch"]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Some fields of a record."""


class Ending(Part, frozen=True, kw_only=True):
    """How the cell ended."""

    status: Status
    reason: str | None = None


class Decision(Part, frozen=True, kw_only=True):
    """What the strategy does to this model."""

    plan: str | None
    storage: str | None
    attention_kernel: str | None
    notes: list[str]


class GradientCheck(Part, frozen=True, kw_only=True):
    """A step under the strategy against one without."""

    loss: float | None
    reference_loss: float
    grads_bitwise_equal: bool
    grad_max_rel_err: float | None
    grad_min_cosine: float | None
    grads_missing: list[str]
    buffers_equal: bool
    rng_restored: bool
    parameters_equal: bool
    checked_steps: int
    grad_fp64_rel_err: float | None
    reference_fp64_rel_err: float | None
    grad_whole_rel_err: float | None
    grad_whole_cosine: float | None


class Predicted(Part, frozen=True, kw_only=True):
    """What the plan interpreter says."""

    predicted_peak_bytes: int | None = None
    predicted_saved_after_forward_bytes: int | None = None
    predicted_recompute_flops: int | None = None


class ModelBytes(Part, frozen=True, kw_only=True):
    """What is there whatever the strategy does, and what is saved when forward is done."""

    after_forward_allocated_bytes: int | None
    saved_after_forward_bytes: int | None
    parameter_bytes: int
    buffer_bytes: int
    batch_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    resident_peak_bytes: int | None


class Peak(Part, frozen=True, kw_only=True):
    """The highest point, by the allocator."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int | None
    peak_operator: str | None


class Fit(Part, frozen=True, kw_only=True):
    """Whether a simulated step fits the device, by its caching allocator."""

    status: Status
    reason: str | None = None
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    max_allocated_bytes: int | None = None
    steady_reserved_bytes: int | None = None
    expandable_reserved_bytes: int | None = None
    workspace_bytes: int | None = None


class PeakMakeUp(Part, frozen=True, kw_only=True):
    """Where the peak of a simulated step is, and what it is made of."""

    peak_phase: str
    peak_module: str
    peak_operator: str
    peak_by_category: dict[str, int]
    peak_floor_bytes: int
    advice: str


class StepFlops(Part, frozen=True, kw_only=True):
    """Counted operations, and how often each block's forward was entered."""

    forward_flops: int | None = None
    step_flops: int | None = None
    recompute_flops: int | None = None
    block_forwards: list[int] = msgspec.field(default_factory=list)


class Exchange(Part, frozen=True, kw_only=True):
    """What one of several ranks says to the others in a step, by kind of collective."""

    communication_calls: dict[str, int]
    communication_bytes: dict[str, int]
    recomputed_collectives: dict[str, int]


class StepTimes(Part, frozen=True, kw_only=True):
    """Raw seconds, one an interleaved round."""

    step_s: list[float] = msgspec.field(default_factory=list)
    none_step_s: list[float] = msgspec.field(default_factory=list)
    interval_width: float | None = None
    warmup_step_s: list[float] = msgspec.field(default_factory=list)


class Surroundings(Part, frozen=True, kw_only=True):
    """What else went on while steps were timed; ``None``: this system does not say."""

    load_average: float | None = None
    other_cpu_share: float | None = None
    stolen_cpu_share: float | None = None
    cpu_governor: str | None = None
    throttled_s: float | None = None
    thermal_throttles: int | None = None


class ModelledTimes(Part, frozen=True, kw_only=True):
    """What a roofline says."""

    modelled_step_s: float | None = None
    modelled_none_step_s: float | None = None


class Missing(Part, frozen=True, kw_only=True):
    """Parameters that got no gradient in a simulated step, whose gradients have no values."""

    grads_missing: list[str]


def merged(*parts: Part) -> dict[str, Any]:
    """The fields of all parts.

    Raises:
        TypeError: two of them have the same field.
    """
    fields: dict[str, Any] = {}
    for part in parts:
        own = {name: getattr(part, name) for name in part.__struct_fields__}
        twice = fields.keys() & own.keys()
        if twice:
            raise TypeError(f"two parts of a record have the field {min(twice)}")
        fields |= own
    return fields
