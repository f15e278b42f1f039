"""Which cells, in which order; skips those that have a record, so an interrupted sweep resumes."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.cells import ROUNDS
from bench.cells.cell import Cell, checked
from bench.run import executor
from bench.run.blank import blank
from bench.store import records
from bench.store.json_store import set_aside
from bench.store.records import Record
from strategies.contract.budgeted import Budgeted
from strategies.contract.layered import Layered
from strategies.contract.registry import classes, peers
from strategies.execution.compiler import AOT_EAGER
from strategies.memory_budget import SOLVERS, MemoryBudget

DEPTHS = (4, 8, 16, 32, 64)

# Small enough that 64 layers of every strategy take seconds, large enough that activations, not
# parameters, decide the exponent.
DEPTH_SERIES: dict[str, dict[str, Any]] = {
    "mlp-chain": {"dim": 64, "batch": 1024},
    "gpt-mini": {"dim": 64, "heads": 2, "seq": 128, "batch": 2},
}
FULL_WORKLOADS = ("gpt-mini-dropout", "llama-mini", "vit-b16", "resnet50", "gpt2-small")

SIMULATED_SERIES = (
    ("gpt3-175b", "sim:h100-80gb", "fp16"),
    ("gpt2-xl", "sim:rtx4090-24gb", "bf16-autocast"),
    ("llama3-8b", "sim:a100-80gb", "bf16"),
    ("llama3-70b", "sim:b200", "bf16"),
    ("vit-h14", "sim:l4-24gb", "bf16-autocast"),
)

STANDARD_ROUNDS, FULL_ROUNDS = ROUNDS, 2 * ROUNDS
FEW_ROUNDS = 6  # where a step takes seconds: the fewest whose interval supposes nothing of noise

_LOOK_S = 0.05

Report = Callable[[int, int, Record], None]
"""Is told how many cells are done, of how many, and the newest record."""

# What the textbooks' tables compare, one row each: the first run that a newcomer waits for.
QUICK = (
    "none",
    "every_layer",
    "every_k",
    "sqrt",
    "selective(variant=textbook)",
    "selective(variant=attention_core)",
    "compressed(codec=fp16)",
    "compressed(codec=int8)",
    "offload",
    "flash_checkpoint",
)


def cells_of(suite: str, device: str) -> list[Cell]:
    """The cells of a suite, checked.

    Raises:
        ValueError: an unknown suite or device.
    """
    if suite not in SUITES:
        raise ValueError(f"suite must be one of {', '.join(SUITES)}, not {suite!r}")
    return list({c.cell_id(): c for c in map(checked, SUITES[suite](device))}.values())


def _smoke_cells(device: str) -> Iterator[Cell]:
    """Every strategy once, where a step takes milliseconds."""
    first = [next(iter(cls.grid())).spec() for cls in classes().values()]
    return _tradeoff("mlp-chain", device, FEW_ROUNDS, first)


def _quick_cells(device: str) -> Iterator[Cell]:
    """What the project is about, on one workload; ``standard`` holds the same cells."""
    return _tradeoff("gpt-mini", device, STANDARD_ROUNDS, QUICK)


def _standard_cells(device: str) -> Iterator[Cell]:
    """Every strategy on two workloads, and memory against depth."""
    return _wide(device, STANDARD_ROUNDS)


def _full_cells(device: str) -> Iterator[Cell]:
    """``standard`` with more rounds; more workloads, precisions, and an optimizer."""
    yield from _wide(device, FULL_ROUNDS)
    for name in FULL_WORKLOADS:
        yield from _tradeoff(name, device, FEW_ROUNDS, every_spec())
    yield from _precision_cells(device)


def _peer_cells(device: str) -> Iterator[Cell]:
    """Other people's implementations on one workload, beside `none` and ours."""
    return _tradeoff("gpt-mini", device, STANDARD_ROUNDS, ["none", *peer_specs()])


def _wide(device: str, rounds: int) -> Iterator[Cell]:
    for name in ("gpt-mini", "mlp-chain"):
        yield from _tradeoff(name, device, rounds, every_spec())
    yield from _depth_cells(device)


def every_spec() -> list[str]:
    """Every point of every strategy's grid, ``none`` first."""
    specs = [point.spec() for cls in classes().values() for point in cls.grid()]
    return sorted(specs, key=lambda spec: (spec != "none", spec))


def peer_specs() -> list[str]:
    """Every point of every peer's grid, ours that does the same, and PyTorch's compiler budget."""
    theirs = [point.spec() for cls in peers().values() for point in cls.grid()]
    budgets = [MemoryBudget(backend=AOT_EAGER, solver=solver).spec() for solver in SOLVERS]
    return ["every_layer", *theirs, *budgets]


def depth_specs() -> list[str]:
    """Every strategy, but of layered ones the default only: storage is a constant factor.

    Not compiled ones: 64 layers take minutes to compile, and a fraction of what grows grows as it
    does.
    """
    points = [
        point
        for cls in classes().values()
        if not issubclass(cls, Budgeted)  # a share of what grows grows as it does
        and not cls.compiled
        for point in ((cls(),) if issubclass(cls, Layered) else cls.grid())
    ]
    return sorted((point.spec() for point in points), key=lambda spec: (spec != "none", spec))


def _tradeoff(workload: str, device: str, rounds: int, specs: Sequence[str]) -> Iterator[Cell]:
    """Strategies on one workload, timed; and flash attention without checkpoints."""
    for spec in specs:
        yield Cell(workload=workload, spec=spec, device=device, rounds=rounds)
    cell = Cell(workload=workload, spec="none", device=device, rounds=rounds)
    if cell.make_workload().options().get("attention") == "math":
        yield msgspec.structs.replace(cell, options={"attention": "flash"})


def _depth_cells(device: str) -> Iterator[Cell]:
    """Memory against depth: every strategy, no time."""
    for workload, options in DEPTH_SERIES.items():
        for layers in DEPTHS:
            for spec in depth_specs():
                sized = {**options, "layers": layers}
                yield Cell(workload=workload, options=sized, spec=spec, device=device, rounds=0)


def _simulated_cells(_: str) -> Iterator[Cell]:
    """Every strategy at sizes that no machine here could hold, on devices of their own."""
    for workload, device, precision in SIMULATED_SERIES:
        for cell in _tradeoff(workload, device, 0, every_spec()):
            yield msgspec.structs.replace(cell, precision=precision)
    workload, device, precision = SIMULATED_SERIES[0]
    for layers in (12, 24, 48):  # what the simulator itself costs, against the number of blocks
        options = {"layers": layers}
        for spec in ("none", "every_layer"):
            yield Cell(
                workload=workload, options=options, spec=spec, device=device, precision=precision
            )


def _precision_cells(device: str) -> Iterator[Cell]:
    """Mixed precision and an optimizer in the step."""
    for spec in every_spec():
        for precision, optimizer in (("bf16-autocast", "none"), ("fp32", "adamw")):
            yield Cell(
                workload="gpt-mini",
                spec=spec,
                device=device,
                precision=precision,
                optimizer=optimizer,
                rounds=FEW_ROUNDS,
            )


SUITES: dict[str, Callable[[str], Iterator[Cell]]] = {
    "smoke": _smoke_cells,
    "quick": _quick_cells,
    "standard": _standard_cells,
    "full": _full_cells,
    "simulated": _simulated_cells,
    "peers": _peer_cells,
}


def run(
    cells: Sequence[Cell],
    results: Path,
    progress: Report,
    *,
    timeout_s: float = executor.TIMEOUT_S,
    measure: Callable[[Cell, float], Record] = executor.run,
) -> list[Record]:
    """Measure what has no record yet; every record is on disk before the next cell starts.

    Timed cells run alone. The others run two at a time: bytes, FLOPs and gradients do not depend
    on what else the machine does.

    Returns:
        The records of ``cells``, found and new, in the order of ``cells``.
    """
    by_place: dict[int, Record] = {}
    for place, cell in enumerate(cells):
        record = existing(cell, results)
        if record is not None:
            by_place[place] = record
            progress(len(by_place), len(cells), record)
    todo = {place: cell for place, cell in enumerate(cells) if place not in by_place}
    for place, record in _measured(todo, timeout_s, measure):
        records.write(record, results)
        by_place[place] = record
        progress(len(by_place), len(cells), record)
    return [by_place[place] for place in range(len(cells))]


def existing(cell: Cell, results: Path) -> Record | None:
    """The cell's record on disk, if there is one that can be trusted."""
    empty = blank(cell)
    path = records.path_of(empty, results)
    if path.exists() and not path.is_file():
        set_aside(path, "it is no file")
    record = records.read(path) if path.exists() else None
    if record is not None and record.cell_id != empty.cell_id:
        set_aside(path, f"it holds cell {record.cell_id}")
        return None
    return record


def _measured(
    cells: Mapping[int, Cell], timeout_s: float, measure: Callable[[Cell, float], Record]
) -> Iterator[tuple[int, Record]]:
    for place, cell in cells.items():
        if cell.rounds:
            yield place, measure(cell, timeout_s)
    with concurrent.futures.ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        futures = {
            pool.submit(measure, cell, timeout_s): place
            for place, cell in cells.items()
            if not cell.rounds
        }
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            _abandon(pool, list(futures))
            raise


def _abandon(
    pool: concurrent.futures.Executor, futures: Sequence[concurrent.futures.Future[Record]]
) -> None:
    """Start nothing more and end what runs: an interrupt at the terminal does not reach it."""
    pool.shutdown(wait=False, cancel_futures=True)
    running = [future for future in futures if not future.cancelled()]
    while concurrent.futures.wait(running, _LOOK_S).not_done:
        executor.end_all()
