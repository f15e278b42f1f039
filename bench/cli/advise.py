"""``python -m bench advise``: does it fit, what to do, what it costs, what else would help."""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import flags, plan_ranks
from bench.measure.garbage import uncollected
from bench.run import server

if TYPE_CHECKING:
    from bench.advise.printed import Printed
    from bench.advise.shared_advice import SharedAdvice
    from bench.cells.cell import Cell


class AdviceFormat(enum.StrEnum):
    """How to print advice."""

    auto = "auto"
    text = "text"
    md = "md"
    html = "html"
    json = "json"


OPTIMIZER = "adamw"
"""Training without one is no training."""
FINDINGS = "bench.advise.findings"
"""What every process of this command needs."""


@flags.with_default(optimizer=OPTIMIZER)
@flags.with_setup
def advise(  # noqa: PLR0917 - one parameter a flag
    setup: flags.Setup,
    workload: flags.Workload,
    device: Annotated[
        str, typer.Option(help="A modelled one, or one that is here; see `list devices`.")
    ] = "",
    budget: Annotated[
        str | None, typer.Option(help="Less than the device has: 8GB, 8GiB, bytes, or 50% of none.")
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="To try; may be repeated; default: those that differ.")
    ] = None,
    no_sizes: Annotated[
        bool, typer.Option("--no-sizes", help="Do not search for the largest batch and sequence.")
    ] = False,
    ranks: Annotated[
        str, typer.Option(help="Of a simulated cluster: their number, or auto for the fewest.")
    ] = "",
    parallel: flags.ParallelOption = "fsdp2(mixed=true)",
    output: Annotated[
        AdviceFormat, typer.Option("--format", help="auto: text in a terminal, Markdown elsewhere.")
    ] = AdviceFormat.auto,
) -> None:
    """Say what to do about a model on a device; nothing is stored.

    Does the step fit, where is its peak, which strategy, what it costs, how large batch and
    sequence can be, and what else would help. Exit code 0 also where nothing fits: it is an answer.
    """
    server.begin(server.shared(FINDINGS, workload))  # imports while this process does
    with uncollected():
        from bench.advise import api
        from bench.advise.candidates import SPECS

    cell = setup.cell(workload, device or api.DEVICE, rounds=api.ROUNDS)
    if cell.interval_width is not None:
        raise ValueError("advice has a fixed number of rounds; see `run`")
    if ranks:
        _show(_shared(cell, ranks, parallel, budget or "", strategy or SPECS), output)
        return
    advice = api.advise(
        cell.workload,
        device=cell.device,
        budget=budget,
        optimizer=cell.optimizer,
        precision=cell.precision,
        strategies=strategy or SPECS,
        sizes=not no_sizes,
        seed=cell.seed,
        **cell.options,
    )
    _show(advice, output)


def _shared(
    cell: Cell, ranks: str, parallel: str, budget: str, specs: Sequence[str]
) -> SharedAdvice:
    """Advice on a cluster.

    Raises:
        ValueError: bad input, or no cluster holds the model.
    """
    import msgspec

    from bench.advise import shared
    from bench.devices import accelerators

    count = plan_ranks.counted(ranks)
    plan_ranks.check_simulated(cell)
    room_bytes = plan_ranks.rank_bytes(budget, accelerators.get(cell.device).memory_bytes)
    room = f"a budget of {budget}" if budget else "the device's memory"
    own = msgspec.structs.replace(cell, parallel=parallel, rounds=0)
    return shared.advise(own, count, room_bytes, room, specs)


def _show(advice: Printed, output: AdviceFormat) -> None:
    if output is AdviceFormat.auto:
        output = AdviceFormat.text if sys.stdout.isatty() else AdviceFormat.md
    if output is AdviceFormat.text:
        from rich.console import Console

        from bench.advise import formats

        formats.show(advice.page(), Console())
        return
    printed = {
        AdviceFormat.md: advice.markdown,
        AdviceFormat.html: advice._repr_html_,
        AdviceFormat.json: advice.json,
    }
    typer.echo(printed[output]().rstrip("\n"))
