"""Whether real training loops kept their budgets: a line for each model and loop; a figure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.figure import Figure

from bench.report import canvas, display, separated
from bench.report.display import cell, megabytes, percent, times
from bench.report.rounding import steady
from bench.report.tables import plain
from bench.store.promises import Loop, Promise, Study

FINER = 1e-4
"""Of a step: a schedule that is proven this near to the fastest leaves nothing to be used."""
HEADER = (
    "Model",
    "Library",
    "Device",
    "Loop",
    "Budgets kept",
    "Peak of `none`, MB",
    "Smallest budget × none",
    "Highest peak ÷ budget",
    "Used: median",
    "Used: least",
    "Least where a faster plan may exist",
)
LOOPS = {False: "one batch", True: "two batches added up"}
NOTES = (
    f"{display.UNITS}. `auto` is asked for budgets from the smallest that it names to what the "
    "step needs without checkpoints, and trained as people train: the loop holds the model's "
    "output, AdamW updates every weight, from before its state exists; *two batches added up*: "
    "gradients of two are added before each update (`accumulation=True`). The peak is the most "
    "that the allocator gave out in all of it, kernels' scratch memory included; no plan was "
    "measured and mended before (`verify=False`). A batch of the catalogue's tiny models is 16 "
    "draws, so that activations outweigh weights; where peaks are of a few MB, one draw, measured "
    "before that. Dropped layers (LayerDrop) all run, for a budget "
    "is of the largest step. A faster plan may exist where the one that was taken is not proven "
    f"to be within {100 * FINER:g} % of a step of the fastest.\n"
)


def used(promise: Promise) -> float:
    """The measured peak as a part of the budget."""
    return promise.peak_allocated_bytes / promise.budget_bytes


def kept(promise: Promise) -> bool:
    """Whether it was within the budget."""
    return promise.peak_allocated_bytes <= promise.budget_bytes


def markdown(studies: Sequence[Study]) -> str:
    """A summary, the table, and what came to nothing."""
    lines = [_cells(study, loop) for study in studies for loop in study.loops]
    parts = [
        "# Promised budgets, kept or not\n",
        cell(display.where(display.places(studies))) + "\n",
    ]
    parts += [NOTES, summary(studies) + "\n", display.table(HEADER, lines, right=len(HEADER) - 4)]
    problems = [f"- {cell(s.model)}: {cell(s.problem)}" for s in studies if s.problem]
    if problems:
        parts.append("## Not planned for\n\n" + "\n".join(problems) + "\n")
    return "\n".join(parts)


def summary(studies: Sequence[Study]) -> str:
    """How many were kept, in a sentence."""
    promises = [p for study in studies for loop in study.loops for p in loop.promises]
    broken = [p for p in promises if not kept(p)]
    worst = max((used(p) for p in broken), default=1.0) - 1
    more = f", by {percent(worst, 2)} at most" if broken else ""
    count = len(promises) - len(broken)
    return f"{count} of {len(promises)} budgets were kept; {len(broken)} were exceeded{more}."


def _cells(study: Study, loop: Loop) -> list[str]:
    parts = [used(promise) for promise in loop.promises]
    loose = [used(promise) for promise in loop.promises if promise.gap_fraction > FINER]
    count = sum(map(kept, loop.promises))
    whole = count == len(parts)
    return [
        cell(study.model),
        cell(f"{study.library} {study.library_version}"),
        cell(study.device_name),
        LOOPS[loop.accumulation],
        f"{count} of {len(parts)}" if whole else f"**{count} of {len(parts)}**",
        megabytes(loop.plain_peak_bytes),
        times(loop.smallest_bytes / loop.plain_peak_bytes),
        percent(max(parts), 2),
        percent(statistics.median(parts)),
        percent(min(parts)),
        percent(min(loose, default=None)),
    ]


def csv(studies: Sequence[Study]) -> str:
    """Every budget: raw bytes, ratios to six decimals."""
    frame = pd.DataFrame([row for study in studies for row in _rows(study)], dtype=object)
    return separated.csv(frame)


def _rows(study: Study) -> Iterator[dict[str, object]]:
    for loop in study.loops:
        for promise in loop.promises:
            row = {
                "model": study.model,
                "library": study.library,
                "library_version": study.library_version,
                "device": study.device,
                "torch_version": study.torch_version,
                "machine_id": study.machine_id,
                "optimizer": study.optimizer,
                "updates": study.updates,
                "accumulation": loop.accumulation,
                "plain_peak_bytes": loop.plain_peak_bytes,
                "smallest_bytes": loop.smallest_bytes,
                "budget_bytes": promise.budget_bytes,
                "predicted_peak_bytes": promise.predicted_peak_bytes,
                "peak_allocated_bytes": promise.peak_allocated_bytes,
                "used": used(promise),
                "gap": promise.gap_fraction,
                "plan": promise.plan,
            }
            yield {name: plain(value) for name, value in row.items()}


def label(study: Study) -> str:
    """Of a column: off the CPU, the device too."""
    return study.model if study.device == "cpu" else f"{study.model} ({study.device})"


def figure(studies: Sequence[Study]) -> Figure:
    """Measured peak over budget, a column for each model."""
    figure, [axes] = canvas.new(8.5, 4.6)
    axes.axhline(100, color="0.4", linewidth=1, label="the budget", zorder=1)
    for accumulation, colour, shift in ((False, 0, -0.12), (True, 1, 0.12)):
        points = [
            (place + shift, 100 * steady(used(promise)))
            for place, study in enumerate(studies)
            for loop in study.loops
            if loop.accumulation is accumulation
            for promise in loop.promises
        ]
        axes.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            s=18,
            alpha=0.75,
            linewidths=0,
            color=display.COLOURS[colour],
            marker=display.MARKERS[colour],
            label=LOOPS[accumulation],
            zorder=2,
        )
    axes.set_xticks(
        range(len(studies)), [label(study) for study in studies], rotation=35, ha="right"
    )
    axes.set_ylabel("Measured peak, % of the budget")
    axes.grid(axis="y", **canvas.GRID)
    axes.margins(y=0.12)  # room for the legend, below the lowest point
    axes.legend(frameon=False, loc="lower right", ncols=3, fontsize=8)
    facts = (
        f"{display.where(display.places(studies))}\nauto; adamw, {studies[0].updates} updates; fp32"
    )
    canvas.heading(figure, "Budgets promised to a training loop", [facts])
    return figure
