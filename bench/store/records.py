"""The record: everything known about one cell's run, failures included.

One JSON file a cell. Writing is atomic (temporary file, fsync, rename), so a killed run leaves
either the whole record or none. Reading refuses what it does not understand: a truncated or
foreign file is *set aside* under a name that says so, and reported, never trusted.

This module imports no torch, so that the report can be made on a machine without it.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

SCHEMA_VERSION = 1
RESULTS = Path("results")

Status = Literal["ok", "oom", "timeout", "crash", "unsupported", "mismatch"]
STATUSES: tuple[str, ...] = get_args(Status)


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    # How it ended.
    status: Status
    reason: str | None = None
    notes: list[str] = []
    # What the strategy is.
    exact: bool
    plan: str | None = None
    storage: str | None = None
    attention_kernel: str | None = None
    textbook_memory: str | None = None
    textbook_compute: str | None = None
    # Memory.
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
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
    peak_by_category: dict[str, int] = {}
    peak_floor_bytes: int | None = None
    advice: str | None = None
    # Time: raw seconds, one per interleaved round, in round order.
    step_s: list[float] = []
    none_step_s: list[float] = []
    warmup_step_s: list[float] = []
    modelled_step_s: float | None = None
    modelled_none_step_s: float | None = None
    # Compute.
    forward_flops: int | None = None
    step_flops: int | None = None
    recompute_flops: int | None = None
    predicted_recompute_flops: int | None = None
    block_forwards: list[int] = []
    # Gradients, against `none` with math attention off or on as the workload says.
    loss: float | None = None
    reference_loss: float | None = None
    grads_bitwise_equal: bool | None = None
    grad_max_rel_err: float | None = None
    grad_min_cosine: float | None = None
    grads_missing: list[str] = []
    buffers_equal: bool | None = None
    rng_restored: bool | None = None
    # Where, when, with what.
    seed: int = 0
    torch_version: str
    python_version: str
    threads: int
    machine_id: str
    machine: dict[str, str | int | float]
    commit: str | None
    dirty: bool | None
    code_hash: str
    cell_id: str
    started_at_utc: str
    duration_s: float | None = None


def encode(record: Record) -> bytes:
    """JSON, two-space indented, keys in the order of the schema, newline at the end."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def encode_line(record: Record) -> str:
    """The record on one line, for ``--format json``."""
    return msgspec.json.encode(record).decode()


def decode(data: bytes) -> Record:
    """Parse one record strictly.

    Raises:
        ValueError: truncated, not a record, an unknown field, or another schema version.
    """
    try:
        record = msgspec.json.decode(data, type=Record)
    except msgspec.DecodeError as error:  # ValidationError is a subclass
        raise ValueError(f"not a record of schema {SCHEMA_VERSION}: {error}") from error
    if record.schema_version != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {record.schema_version}; this program reads {SCHEMA_VERSION}"
        )
    return record


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds all of it or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)  # mkstemp's 0600 would keep a shared results folder unreadable
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def path_of(record: Record, results: Path = RESULTS) -> Path:
    """``<results>/raw/<machine>/<workload>/<strategy>-<cell id>.json``."""
    folder = results / "raw" / record.machine_id / record.workload
    return folder / f"{record.strategy}-{record.cell_id}.json"


def write(record: Record, results: Path = RESULTS) -> Path:
    """Store one record atomically; returns where."""
    path = path_of(record, results)
    write_atomically(path, encode(record))
    return path


def set_aside(path: Path, reason: str) -> Path:
    """Rename an untrustworthy file to ``<name>.set-aside`` and warn; nothing is deleted."""
    target = path.with_name(path.name + ".set-aside")
    count = 1
    while target.exists():
        count += 1
        target = path.with_name(f"{path.name}.set-aside-{count}")
    path.rename(target)
    warnings.warn(f"{path}: {reason}; set aside as {target.name}", UserWarning, stacklevel=2)
    return target


def read(path: Path) -> Record | None:
    """The record at ``path``, or ``None`` after setting the file aside with a warning."""
    try:
        return decode(path.read_bytes())
    except ValueError as error:
        set_aside(path, str(error))
        return None


def read_all(results: Path = RESULTS) -> Iterator[Record]:
    """Every record under ``<results>/raw``, in path order."""
    for path in sorted((results / "raw").rglob("*.json")):
        record = read(path)
        if record is not None:
            yield record
