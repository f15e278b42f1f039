"""For which models and cluster sizes does FSDP alone fit a device, and where is more needed?

A rank of every cluster is simulated without and with checkpointing: weights rest in fp32, are
gathered in bf16, and AdamW updates them, one sequence on each rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from bench import workloads
from bench.cells import machine
from bench.cells.cell import Cell, checked
from bench.devices import accelerators
from bench.ranks.simulated_record import simulate
from bench.ranks.simulated_time import interconnect_of
from bench.store.clusters import SCHEMA_VERSION, Rank, Study
from bench.store.records import Record

MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama3-8b", {"seq": 2048, "attention": "flash"}),
    ("llama3-8b", {"seq": 8192, "attention": "flash"}),
    ("llama3-70b", {"seq": 8192, "attention": "flash"}),
    ("gpt3-175b", {"seq": 2048, "attention": "flash"}),
)
RANKS = (8, 64, 512, 1024)
SPECS = ("none", "every_layer")
PRECISION, OPTIMIZER, PARALLEL = "fp32", "adamw", "fsdp2(mixed=true)"

Report = Callable[[Rank], None]
Key = tuple[str, str, int, str]


def studies(
    device: str, ranks: Sequence[int], known: Sequence[Rank], report: Report
) -> Iterator[Study]:
    """All models and strategies on clusters of so many devices; the study grows by one at a time.

    Args:
        device: simulated.
        ranks: sizes of clusters.
        known: what was found before.
        report: is told of every new one.

    Raises:
        ValueError: no such device, or the catalogue knows no link between such devices.
    """
    accelerator = accelerators.get(device)
    interconnect_of(accelerator)
    found = {_key(one): one for one in known}
    for cell in cells(accelerator.spec_text, ranks):
        key = _key_of(cell)
        if key not in found:
            found[key] = _rank(simulate(cell))
            report(found[key])
        yield Study(
            **machine.provenance(SCHEMA_VERSION, 0),
            device=accelerator.spec_text,
            device_name=accelerator.product,
            memory_bytes=accelerator.memory_bytes,
            precision=PRECISION,
            optimizer=OPTIMIZER,
            parallel=PARALLEL,
            points=list(found.values()),
        )


def cells(device: str, ranks: Sequence[int]) -> Iterator[Cell]:
    """What is simulated, in order."""
    for workload, options in MODELS:
        for count in ranks:
            for spec in SPECS:
                yield cell_of(workload, options, count, spec, device)


def _key(one: Rank) -> Key:
    return one.workload, str(sorted(one.workload_options.items())), one.ranks, one.spec


def _key_of(cell: Cell) -> Key:
    options = cell.make_workload().options()
    return cell.workload, str(sorted(options.items())), cell.ranks, cell.spec


def cell_of(workload: str, options: dict[str, Any], ranks: int, spec: str, device: str) -> Cell:
    """A cluster's cell, each rank with the workload's own batch."""
    own = workloads.get(workload, **options).options()["batch"]
    return checked(
        Cell(
            workload=workload,
            options={**options, "batch": own * ranks},
            spec=spec,
            device=device,
            precision=PRECISION,
            optimizer=OPTIMIZER,
            ranks=ranks,
            parallel=PARALLEL,
        )
    )


def _rank(record: Record) -> Rank:
    names = ("workload", "workload_options", "ranks", "spec", "peak_allocated_bytes")
    more = ("peak_by_category", *Rank.__struct_fields__[-3:])
    fields = {name: getattr(record, name) for name in (*names, *more)}
    return msgspec.convert(
        {
            **fields,
            "fits": record.status == "ok",
            "reserved_bytes": record.steady_reserved_bytes,
        },
        type=Rank,
    )
