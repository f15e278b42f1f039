"""Simulated devices beside real ones: how far the simulation is off, a line a workload."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import pandas as pd

from bench.report import display, separated
from bench.report.display import cell, megabytes, percent
from bench.store.validations import Row, Validation

HEADER = (
    "Workload",
    "Device",
    "Precision",
    "Strategies",
    "Peak of `none`, MB",
    "To the byte",
    "Peak: median error",
    "Peak: worst error",
    "Worst of",
    "Reserved: median error",
)
NOTES = (
    f"{display.UNITS}. The same steps, simulated and run. On a CPU the simulation is of tensors, "
    "and must be right to the byte; the allocator's peak has kernels' scratch memory besides. On "
    "an accelerator the simulation is of its kernels, their scratch memory included, served by the "
    "modelled allocator, and compared with the allocator's own peak in whole blocks. Workspaces of "
    "convolutions are not simulated: their size is cuDNN's choice.\n"
)


def error(row: Row) -> float:
    """Of the simulated peak: of tensors where they are known, else of the allocator's blocks."""
    tensors_bytes = row.real_tensor_peak_bytes
    return row.simulated_peak_bytes / tensors_bytes - 1 if tensors_bytes else row.allocator_error


def differs(row: Row) -> bool:
    """Whether tensors are not, to the byte, what was simulated; only a CPU tells."""
    return bool(row.tensor_peak_error or row.after_forward_error)


def markdown(validations: Sequence[Validation]) -> str:
    """The table."""
    lines = [_cells(one) for one in validations if one.rows]
    parts = [
        "# The simulation beside real devices\n",
        cell(display.where(display.places(validations))),
    ]
    parts += ["", NOTES, display.table(HEADER, lines, right=len(HEADER) - 3)]
    return "\n".join(parts)


def sentence(validations: Sequence[Validation]) -> str:
    """How near the simulation is, in a sentence for each device."""
    names = list(dict.fromkeys(one.device_name for one in validations))
    sentences = []
    for name in names:
        rows = [row for one in validations if one.device_name == name for row in one.rows]
        errors = [error(row) for row in rows]
        exact = sum(not one for one in errors)
        worst = max(errors, key=abs)
        sentences.append(
            f"{name}: {exact} of {len(rows)} peaks to the byte, median error"
            f" {percent(statistics.median(map(abs, errors)), 2)}, worst {percent(worst, 2)}"
        )
    return f"The simulation beside real devices: {'; '.join(sentences)}."


def _cells(one: Validation) -> list[str]:
    errors = {row.strategy: error(row) for row in one.rows}
    worst = max(errors, key=lambda spec: abs(errors[spec]))
    plain_bytes = next((r.allocator_peak_bytes for r in one.rows if r.strategy == "none"), None)
    reserved = [row.reserved_error for row in one.rows if row.reserved_error is not None]
    return [
        cell(one.workload),
        cell(f"{one.device} ({one.device_name})"),
        cell(one.precision),
        str(len(one.rows)),
        megabytes(plain_bytes),
        str(sum(not value for value in errors.values())),
        percent(statistics.median(errors.values()), 2),
        percent(errors[worst], 2),
        cell(worst),
        percent(statistics.median(reserved), 1) if reserved else "",
    ]


def csv(validations: Sequence[Validation]) -> str:
    """Every row: raw bytes, errors to six decimals."""
    frame = pd.DataFrame([row for one in validations for row in _rows(one)], dtype=object)
    return separated.csv(frame)


def _rows(one: Validation) -> Iterator[dict[str, object]]:
    for row in one.rows:
        yield {
            "workload": one.workload,
            "precision": one.precision,
            "device": one.device,
            "device_name": one.device_name,
            "torch_version": one.torch_version,
            **{name: getattr(row, name) for name in Row.__struct_fields__},
            "error": f"{error(row):.6f}",
        }
