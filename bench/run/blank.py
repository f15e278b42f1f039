"""The record of a cell of which only the description is known."""

from __future__ import annotations

from datetime import UTC, datetime

import torch

from bench import devices
from bench.cells import machine
from bench.cells.cell import Cell
from bench.devices import accelerators
from bench.store.parts import Status
from bench.store.records import SCHEMA_VERSION, Record


def blank(cell: Cell, status: Status = "crash", reason: str | None = None) -> Record:
    """The record of a cell of which only the description is known."""
    strategy = cell.make_strategy()
    workload = cell.make_workload()
    return Record(
        **machine.provenance(SCHEMA_VERSION, cell.seed) | {"machine_id": cell.machine_id},
        workload=workload.name,
        workload_options=workload.options(),
        strategy=strategy.name(),
        spec=strategy.spec(),
        params=strategy.params(),
        device=cell.device,
        device_name=device_name(cell),
        modelled=cell.simulated,
        precision=cell.precision,
        optimizer=cell.optimizer,
        memory_limit_bytes=cell.memory_limit_bytes,
        ranks=cell.ranks,
        parallel=cell.parallel or None,
        status=status,
        reason=reason,
        exact=strategy.exact,
        peer=strategy.peer,
        textbook_memory=strategy.textbook_memory,
        textbook_compute=strategy.textbook_compute,
        threads=cell.threads,
        code_hash=cell.code_hash(),
        cell_id=cell.cell_id(),
    )


def device_name(cell: Cell) -> str:
    """The device as its maker calls it."""
    if cell.simulated:
        return accelerators.get(cell.device).product
    return devices.describe(torch.device(cell.device))


def where(cell: Cell) -> str:
    """Device, torch version and today, as the heading of what is not stored."""
    today = datetime.now(UTC).date().isoformat()
    return f"{cell.device} ({device_name(cell)}); torch {torch.__version__}; {today}"
