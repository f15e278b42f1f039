"""What one block of a workload keeps for backward: the difference of two models."""

from __future__ import annotations

from bench.cells.cell import Cell, checked
from bench.published.subject import Options
from bench.ranks.simulated import trace_rank
from bench.simulate.run import trace_cell


def kept_by_a_layer(options: Options) -> int:
    """Bytes that a third block adds to what two keep when forward is done, weights aside.

    Options are ``workload``, ``spec`` (the strategy's), ``precision``; of one rank of several
    ``ranks`` and ``parallel``, as cells have them.
    """
    three, two = (_kept_bytes(options, layers) for layers in (3, 2))
    return three - two


def _cell(options: Options, sizes: Options, spec: str) -> Cell:
    return Cell(
        workload=options["workload"],
        options=dict(sizes),
        spec=spec,
        device="sim:h200-141gb",
        precision=options["precision"],
        ranks=options.get("ranks", 1),
        parallel=options.get("parallel", ""),
    )


def _kept_bytes(options: Options, layers: int) -> int:
    cell = checked(_cell(options, {"layers": layers}, options["spec"]))
    simulation = trace_cell(cell) if cell.ranks == 1 else trace_rank(cell).simulation
    trace = simulation.trace
    return trace.after_forward_bytes() - trace.resident_bytes()


def freed_by_offload(options: Options) -> int:
    """Bytes that are gone when forward is done, if checkpoints rest on the host.

    Options are ``workload``, its ``options``, ``precision``.
    """
    kept, moved = (
        trace_cell(checked(_cell(options, options["options"], spec))).trace.after_forward_bytes()
        for spec in ("every_layer", "offload")
    )
    return kept - moved
