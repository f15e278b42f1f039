"""What one block of a workload keeps for backward: the difference of two models."""

from __future__ import annotations

from bench.cells.cell import Cell, checked
from bench.published.subject import Options
from bench.simulate.run import trace_cell


def kept_by_a_layer(options: Options) -> int:
    """Bytes that a third block adds to what two keep when forward is done, weights aside.

    Options are ``workload``, ``spec`` (the strategy's), ``precision``.
    """
    three, two = (_kept_bytes(options, layers) for layers in (3, 2))
    return three - two


def _kept_bytes(options: Options, layers: int) -> int:
    cell = Cell(
        workload=options["workload"],
        options={"layers": layers},
        spec=options["spec"],
        device="sim:h200-141gb",
        precision=options["precision"],
    )
    trace = trace_cell(checked(cell)).trace
    return trace.after_forward_bytes() - trace.resident_bytes()
