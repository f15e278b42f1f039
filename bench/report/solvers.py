"""What solvers cost: the table, and the figure of seconds against the number of blocks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from bench.report import canvas, display
from bench.report.display import COLOURS, MARKERS, MISSING, cell
from bench.report.rounding import steady
from bench.store.solvers import Study, Timing

HEADER = (
    "Solver",
    "Blocks L",
    "Slots",
    "Median, s",
    "Fastest, s",
    "Slowest, s",
    "Repeats",
    "Gap to the bound",
)

NOTES = (
    "Seconds to find one plan, on synthetic chains of unlike blocks. `optimal` is a dynamic "
    "programme that counts memory in slots; by default it takes as many as about a second allows. "
    "`milp` is a mixed-integer programme that counts bytes. What compiles the dynamic programme "
    "is not part of them: it happens once, and is kept on disk. The gap says by how much a step "
    "under the plan found is at most slower than under the best nested plan.\n"
)


def table(studies: Sequence[Study]) -> str:
    """One table a machine."""
    parts = ["# What solvers cost\n", NOTES]
    for study in studies:
        body = [_line(timing) for timing in _ordered(study)]
        parts.append(f"## {cell(device(study))}\n")
        parts.append(cell(f"{versions(study)}; {shape(study)}.") + "\n")
        parts.append(display.table(HEADER, body, right=len(HEADER) - 1))
    return "\n".join(parts)


def device(study: Study) -> str:
    """``cpu (AMD EPYC), 2 cores``."""
    return f"cpu ({study.machine['processor']}), {study.machine['cores']} cores"


def versions(study: Study) -> str:
    """With what, when."""
    date = study.started_at_utc[:10]
    return (
        f"torch {study.torch_version}, numba {study.numba_version}, "
        f"highspy {study.highspy_version}; {date}"
    )


def shape(study: Study) -> str:
    """The chains and the budget, and what compiling took."""
    return (
        f"seed {study.seed}; {study.modes} modes a block; budget "
        f"{display.percent(study.budget_fraction)} of what none needs; "
        f"compiled once in {seconds(study.compile_s)} s"
    )


def seconds(value: float) -> str:
    """Three digits: ``0.0123``, ``12.3``."""
    return f"{steady(value):#.3g}".rstrip(".")


def label(timing: Timing) -> str:
    """``optimal, 500 slots``; what belongs to one line of the figure."""
    if timing.solver == "milp":
        return "milp, to the byte"
    return "optimal, default slots" if timing.default_slots else f"optimal, {timing.slots} slots"


def _ordered(study: Study) -> list[Timing]:
    return sorted(study.timings, key=lambda timing: (timing.solver != "optimal", label(timing)))


def _line(timing: Timing) -> list[str]:
    gap = timing.gap_fraction
    times = (statistics.median(timing.solve_s), min(timing.solve_s), max(timing.solve_s))
    return [
        cell(label(timing)),
        f"{timing.blocks:,}",
        MISSING if timing.slots is None else f"{timing.slots:,}",
        *map(seconds, times),
        str(len(timing.solve_s)),
        display.percent(gap, 2),
    ]


def figure(studies: Sequence[Study]) -> Figure:
    """Seconds over blocks on logarithmic axes, a panel a machine; bars from fastest to slowest."""
    figure, axes = canvas.new(max(7.5, 5.5 * len(studies)), 5, columns=len(studies))
    names = sorted({label(timing) for study in studies for timing in study.timings})
    for panel, study in zip(axes, studies, strict=True):
        for index, name in enumerate(names):
            _draw(panel, [t for t in study.timings if label(t) == name], index)
        _axes(panel, sorted({timing.blocks for timing in study.timings}))
    facts = [f"{device(study)}\n{versions(study)}\n{shape(study)}" for study in studies]
    canvas.heading(figure, "What solvers cost against the length of the chain", facts)
    return figure


def _draw(axes: Axes, timings: Sequence[Timing], index: int) -> None:
    if not timings:
        return
    by_length = sorted(timings, key=lambda timing: timing.blocks)
    middle = [statistics.median(timing.solve_s) for timing in by_length]
    below = [m - min(timing.solve_s) for m, timing in zip(middle, by_length, strict=True)]
    above = [max(timing.solve_s) - m for m, timing in zip(middle, by_length, strict=True)]
    axes.errorbar(
        [timing.blocks for timing in by_length],
        middle,
        yerr=[below, above],
        color=COLOURS[index % len(COLOURS)],
        marker=MARKERS[index % len(MARKERS)],
        markeredgecolor="white",
        capsize=3,
        label=_legend(by_length),
    )


def _legend(timings: Sequence[Timing]) -> str:
    """The label, with the slots where they change along the line."""
    slots = sorted({timing.slots for timing in timings if timing.slots is not None})
    name = label(timings[0])
    return name if len(slots) < 2 else f"{name} ({slots[-1]:,} to {slots[0]:,})"


def _apart(lengths: Sequence[int]) -> list[int]:
    """Lengths whose labels do not touch."""
    ticks: list[int] = []
    for length in lengths:
        if not ticks or length >= 1.3 * ticks[-1]:
            ticks.append(length)
    return ticks


def _axes(axes: Axes, lengths: Sequence[int]) -> None:
    axes.set(xscale="log", yscale="log", xlabel="Length of the chain L, blocks")
    axes.set_ylabel("Seconds to find a plan")
    axes.xaxis.set_major_locator(FixedLocator(_apart(lengths)))
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, **canvas.GRID)
    axes.legend(frameon=False, fontsize=8)
