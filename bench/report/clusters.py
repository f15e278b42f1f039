"""Where FSDP alone fits a device, and where checkpointing is needed: table, figure and verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import canvas, display, separated
from bench.report.display import COLOURS, MARKERS, cell, code
from bench.report.judges import Outcome, Verdict, combined
from bench.report.rounding import steady
from bench.store.clusters import Rank, Study

NONE = "none"
HEADER = ("Model", "Ranks", "Strategy", "Reserved GB", "Fits", "At the peak", "Step s", "Waiting")
NOTES = (
    "What one rank of a cluster reserves in the steady state of a training loop (*modelled*: the "
    "real FSDP2 on fake tensors). Every block is a unit of FSDP2; weights, gradients and AdamW's "
    "state rest in fp32, sharded; weights are gathered in bf16; each rank has a sequence of its "
    "own. *Waiting* is the part of a step in which operators wait for other ranks. `python -m "
    "bench clusters` simulates all of it again.\n"
)
TICKS = [step * 10**power for power in range(5) for step in (1, 2, 5)]
"""GB that the vertical axis may name."""
COMMAND = "python -m bench clusters"

Group = tuple[str, list[Rank]]


def markdown(studies: Sequence[Study]) -> str:
    """One table a study."""
    parts = ["# FSDP alone, and with checkpointing\n", NOTES]
    for study in studies:
        judged = verdict([study])
        parts.append(f"{cell(facts(study))}\n\n{cell(judged.evidence)}\n")
        rows = [_line(point, label) for label, points in groups(study) for point in points]
        parts.append(display.table(HEADER, rows))
    return "\n".join(parts)


def facts(study: Study) -> str:
    """Of which devices, with what, when."""
    return (
        f"{study.device} ({study.device_name}), {steady(study.memory_bytes / 1e9):.1f} GB a rank; "
        f"{study.parallel}, {study.optimizer}; torch {study.torch_version}; "
        f"{study.started_at_utc[:10]}."
    )


def groups(study: Study) -> list[Group]:
    """Ranks of one model at one length, by its name, in the study's order."""
    found: dict[str, list[Rank]] = {}
    for point in study.points:
        label = f"{point.workload}, {point.workload_options['seq']:,} tokens"
        found.setdefault(label, []).append(point)
    return [(label, sorted(ones, key=lambda p: (p.ranks, p.spec))) for label, ones in found.items()]


def _line(point: Rank, label: str) -> list[str]:
    largest = sorted(point.peak_by_category.items(), key=lambda item: (-item[1], item[0]))[:3]
    return [
        cell(label),
        str(point.ranks),
        code(point.spec),
        f"{_gb(point.reserved_bytes):.1f}",
        "yes" if point.fits else "**no**",
        cell(", ".join(f"{name} {_gb(size):.1f} GB" for name, size in largest)),
        f"{steady(point.modelled_step_s):.2f}",
        display.percent(steady(point.modelled_exposed_s / point.modelled_step_s), 0),
    ]


def _gb(size_bytes: int) -> float:
    return steady(size_bytes / 1e9)


def csv(studies: Sequence[Study]) -> str:
    """Every rank: figures as stored."""
    return separated.csv(pd.DataFrame(list(_rows(studies)), dtype=object))


def _rows(studies: Sequence[Study]) -> Iterator[dict[str, object]]:
    for study in studies:
        for label, points in groups(study):
            for point in points:
                names = ("ranks", "spec", "fits", "peak_allocated_bytes", "reserved_bytes")
                times = ("modelled_step_s", "modelled_communication_s", "modelled_exposed_s")
                row = {name: getattr(point, name) for name in (*names, *times)}
                yield {"device": study.device, "model": label, **row}


def verdict(studies: Sequence[Study]) -> Verdict:
    """«Already using FSDP/ZeRO: may have sufficient memory»: for which models, on how many ranks.

    *Confirmed* where some cluster holds the model without checkpointing, *refuted* where none does
    and checkpointing is what makes it fit; of both kinds, *refined*.
    """
    parts, outcomes = [], list[Outcome]()
    for study in studies:
        for label, points in groups(study):
            alone = [point.ranks for point in points if point.fits and point.spec == NONE]
            helped = [point.ranks for point in points if point.fits and point.spec != NONE]
            if not alone and not helped:
                parts.append(f"{label}: fits none of these clusters")
                continue
            outcomes.append("confirmed" if alone else "refuted")
            tried = ", ".join(str(count) for count in sorted({point.ranks for point in points}))
            parts.append(f"{label}: {_said(alone, helped, points)} (tried: {tried})")
    if not outcomes:
        return Verdict("unmeasured", f"No study. Make it with: {COMMAND}")
    sentence = "FSDP divides weights, gradients and optimizer state by the ranks, not activations"
    return Verdict(combined(outcomes), f"{sentence}. Modelled: {'; '.join(parts)}")


def _said(alone: Sequence[int], helped: Sequence[int], points: Sequence[Rank]) -> str:
    last = max(point.ranks for point in points)
    if alone:
        more = f", with checkpointing from {min(helped)}" if helped else ""
        return f"FSDP alone fits from {min(alone)} ranks{more}"
    needs = min(p.reserved_bytes for p in points if p.spec == NONE)
    return (
        f"FSDP alone needs {_gb(needs):.0f} GB a rank even on {last}; with checkpointing it fits"
        f" from {min(helped)}"
    )


def figure(studies: Sequence[Study]) -> Figure:
    """What a rank reserves over the number of ranks: a panel a strategy, a line a model."""
    study = studies[0]
    specs = list(dict.fromkeys(point.spec for point in study.points))
    figure, axes = canvas.new(5 * len(specs), 4.6, columns=len(specs))
    for panel, spec in zip(axes, specs, strict=True):
        _draw(panel, study, spec)
    axes[0].set_ylabel("Reserved by a rank, GB (modelled)")
    axes[-1].legend(frameon=False, fontsize=8)
    said = [f"{spec}\n{study.device_name}; {study.parallel}" for spec in specs]
    canvas.heading(figure, "FSDP alone, and with checkpointing", said)
    return figure


def _draw(axes: Axes, study: Study, spec: str) -> None:
    axes.axhline(
        _gb(study.memory_bytes),
        color="0.4",
        linewidth=1,
        linestyle="--",
        zorder=1,
        label="memory of the device",
    )
    for index, (label, points) in enumerate(groups(study)):
        shown = [point for point in points if point.spec == spec]
        axes.plot(
            [point.ranks for point in shown],
            [_gb(point.reserved_bytes) for point in shown],
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
            linewidth=1,
            label=label,
        )
    counts = sorted({point.ranks for point in study.points})
    axes.set(xscale="log", yscale="log", xlabel="Ranks")
    sizes = [_gb(study.memory_bytes), *(_gb(point.reserved_bytes) for point in study.points)]
    low, high = 0.8 * min(sizes), 1.25 * max(sizes)
    axes.set_ylim(low, high)
    axes.set_yticks([tick for tick in TICKS if low <= tick <= high])
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.grid(visible=True, **canvas.GRID)
    axes.set_axisbelow(True)
