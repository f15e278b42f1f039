"""The record: everything known about one cell's run, failures included; one JSON file a cell.

This module imports no torch, so that the report can be made on a machine without it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bench.store.json_store import Fields, JsonStore, Provenance
from bench.store.parts import Part, Status, merged
from bench.store.ranges import folder_of

SCHEMA_VERSION = 2


class Record(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cell. ``None`` means *not measured*; the field notes say why in ``reason``.

    Field by field documentation: ``results/README.md``; a test holds the two together.
    """

    schema_version: int = SCHEMA_VERSION
    # What was run.
    workload: str
    workload_options: dict[str, Any]
    strategy: str
    spec: str
    params: dict[str, Any]
    device: str
    device_name: str
    modelled: bool = False
    precision: str = "fp32"
    optimizer: str = "none"
    memory_limit_bytes: int | None = None
    ranks: int = 1
    parallel: str | None = None
    rank: int | None = None
    # How it ended.
    status: Status
    reason: str | None = None
    notes: list[str] = msgspec.field(default_factory=list)
    # What the strategy is.
    exact: bool
    peer: str | None = None
    plan: str | None = None
    storage: str | None = None
    attention_kernel: str | None = None
    textbook_memory: str | None = None
    textbook_compute: str | None = None
    # Memory.
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    max_allocated_bytes: int | None = None
    steady_reserved_bytes: int | None = None
    expandable_reserved_bytes: int | None = None
    workspace_bytes: int | None = None
    after_forward_allocated_bytes: int | None = None
    saved_after_forward_bytes: int | None = None
    parameter_bytes: int | None = None
    buffer_bytes: int | None = None
    batch_bytes: int | None = None
    gradient_bytes: int | None = None
    optimizer_bytes: int | None = None
    resident_peak_bytes: int | None = None
    predicted_peak_bytes: int | None = None
    predicted_saved_after_forward_bytes: int | None = None
    # Where the peak is.
    peak_phase: str | None = None
    peak_module: str | None = None
    peak_operator: str | None = None
    peak_by_category: dict[str, int] = msgspec.field(default_factory=dict)
    peak_floor_bytes: int | None = None
    advice: str | None = None
    # Over several ranks.
    rank_peaks_bytes: list[int] = msgspec.field(default_factory=list)
    communication_calls: dict[str, int] = msgspec.field(default_factory=dict)
    communication_bytes: dict[str, int] = msgspec.field(default_factory=dict)
    recomputed_collectives: dict[str, int] = msgspec.field(default_factory=dict)
    # Time: raw seconds, one per interleaved round, in round order.
    step_s: list[float] = msgspec.field(default_factory=list)
    none_step_s: list[float] = msgspec.field(default_factory=list)
    warmup_step_s: list[float] = msgspec.field(default_factory=list)
    interval_width: float | None = None
    # What else went on meanwhile.
    load_average: float | None = None
    other_cpu_share: float | None = None
    stolen_cpu_share: float | None = None
    cpu_governor: str | None = None
    throttled_s: float | None = None
    thermal_throttles: int | None = None
    # As modelled.
    modelled_step_s: float | None = None
    modelled_none_step_s: float | None = None
    modelled_communication_s: float | None = None
    modelled_exposed_s: float | None = None
    # Compute.
    forward_flops: int | None = None
    step_flops: int | None = None
    recompute_flops: int | None = None
    predicted_recompute_flops: int | None = None
    block_forwards: list[int] = msgspec.field(default_factory=list)
    # Gradients, against `none` with math attention off or on as the workload says.
    loss: float | None = None
    reference_loss: float | None = None
    grads_bitwise_equal: bool | None = None
    grad_max_rel_err: float | None = None
    grad_min_cosine: float | None = None
    grads_missing: list[str] = msgspec.field(default_factory=list)
    buffers_equal: bool | None = None
    rng_restored: bool | None = None
    parameters_equal: bool | None = None
    checked_steps: int | None = None
    grad_fp64_rel_err: float | None = None
    reference_fp64_rel_err: float | None = None
    grad_whole_rel_err: float | None = None
    grad_whole_cosine: float | None = None
    # With what, besides.
    threads: int
    code_hash: str
    cell_id: str

    def with_parts(self, *parts: Part) -> Record:
        """The record with what passes found out.

        Raises:
            TypeError: a field that no record has, or that two parts have.
        """
        return msgspec.structs.replace(self, **merged(*parts))


def _name(record: Record) -> str:
    folder = folder_of(record.workload)
    return f"{record.machine_id}/{folder}/{record.strategy}-{record.cell_id}.json"


def _name_the_tier(fields: Fields) -> Fields:
    """Version 1 printed ``@host`` wherever a boundary went, also where that was a disk."""
    plan, storage = fields.get("plan"), fields.get("storage") or ""
    on_disk = "disk" in storage or ("auto" in storage and fields.get("device") == "cpu")
    if plan and on_disk:
        fields = {**fields, "plan": plan.replace("@host", "@disk")}
    return fields


STORE = JsonStore(
    kind=Record,
    noun="record",
    folder="raw",
    name=_name,
    version=SCHEMA_VERSION,
    migrations={1: _name_the_tier},
)
encode, encode_line, decode = STORE.encode, STORE.encode_line, STORE.decode
path_of, write, paths, read, read_all = (
    STORE.path_of,
    STORE.write,
    STORE.paths,
    STORE.read,
    STORE.read_all,
)
