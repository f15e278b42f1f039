"""Where checkpointing starts to pay: the table, the figure, and the textbook's advice judged by it.

Models of growing size at a usual number of tokens a step, and one model at growing length, with and
without checkpoints, on a simulated device. It pays where a step does not fit without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import canvas, display
from bench.report.claim import Claim
from bench.report.display import MISSING, cell, percent, times
from bench.report.frame import Row, build, rows
from bench.report.judges import Outcome, Threshold, Verdict, unmeasured, verdict
from bench.report.rounding import steady
from bench.store.records import Record

FOLDER = "pays"
"""In the results: holds ``raw/``, so that no other table counts these cells."""
COMMAND = "python -m bench pays"
WORKLOAD, KEPT, SPARED = "gpt2-xl", "none", "every_layer"
PARAMETER_BYTES = 4
OCTAVE = Threshold(2.0, "a rule of thumb in round numbers is meant to a factor of two")
HEADER = (
    "Layers × width",
    "Parameters",
    "Sequences × tokens",
    "Precision",
    "Peak without, GB",
    "Peak with, GB",
    "Less by",
    "Step with × without, modelled",
    "Fits without",
    "Fits with",
)
NOTES = (
    "GPT models under flash attention and AdamW, `every_layer` against `none`, simulated: every "
    "tensor of the step counted, times by a roofline. GB is 10⁹ bytes. Checkpointing pays where a "
    "step fits with it alone; elsewhere it only costs its extra compute.\n"
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """One step without checkpoints and with them."""

    without: Row
    with_: Row

    @property
    def parameters(self) -> int:
        """How many; they are in single precision."""
        return int(self.without["parameter_bytes"]) // PARAMETER_BYTES

    @property
    def tokens(self) -> int:
        """Of a sequence."""
        return int(self.without["workload_options"]["seq"])

    @property
    def pays(self) -> bool:
        """It fits with checkpoints, and not without."""
        return not fits(self.without) and fits(self.with_)

    @property
    def spared(self) -> float:
        """Part of the peak that checkpoints take away."""
        return 1 - float(self.with_["peak_allocated_bytes"] / self.without["peak_allocated_bytes"])

    @property
    def slower(self) -> float:
        """Modelled step with over without."""
        return float(self.with_["modelled_step_s"] / self.without["modelled_step_s"])


def within(results: Path) -> Path:
    """Where these records are, below the results."""
    return results / FOLDER


def fits(row: Row) -> bool:
    """The device could hold the step; what does not fit was counted all the same."""
    return bool(row["status"] == "ok")


def pairs(frame: pd.DataFrame) -> list[Pair]:
    """All pairs of the study, by device, precision, length and size."""
    kinds: dict[str, dict[str, Row]] = {}
    for row in rows(frame):
        asked = row["workload"] == WORKLOAD and row["modelled"] and row["optimizer"] == "adamw"
        if asked and row["status"] in ("ok", "oom"):
            kinds.setdefault(row["family"], {})[row["spec"]] = row
    found = [Pair(k[KEPT], k[SPARED]) for k in kinds.values() if {KEPT, SPARED} <= set(k)]
    known = [p for p in found if p.without["peak_allocated_bytes"] and p.with_["modelled_step_s"]]
    return sorted(known, key=_order)


def _order(pair: Pair) -> tuple[object, ...]:
    row = pair.without
    return (
        row["device"],
        row["precision"],
        row["workload_options"]["batch"],
        pair.parameters,
        pair.tokens,
    )


def by_size(frame: pd.DataFrame) -> list[Pair]:
    """Those of several sequences a step, in mixed precision: they differ in size alone."""
    found = [p for p in pairs(frame) if p.without["workload_options"]["batch"] > 1]
    return [p for p in found if p.without["precision"] != "fp32"]


def by_length(frame: pd.DataFrame) -> list[Pair]:
    """Those of one sequence, of one model."""
    return [p for p in pairs(frame) if p.without["workload_options"]["batch"] == 1]


def markdown(records: Sequence[Record]) -> str:
    """The table."""
    found = pairs(build(records))
    body = [_line(pair) for pair in found]
    place = cell(display.where([pair.without for pair in found])) if found else "No records"
    return f"# Where checkpointing starts to pay\n\n{place}. {NOTES}\n{display.table(HEADER, body)}"


def _line(pair: Pair) -> list[str]:
    sizes = pair.without["workload_options"]
    peaks = [
        f"{steady(row['peak_allocated_bytes'] / 1e9):.1f}" for row in (pair.without, pair.with_)
    ]
    return [
        f"{sizes['layers']} × {sizes['dim']}",
        counted(pair.parameters),
        f"{sizes['batch']} × {sizes['seq']:,}",
        cell(pair.without["precision"]),
        *peaks,
        percent(pair.spared),
        times(pair.slower),
        *("yes" if fits(row) else "**no**" for row in (pair.without, pair.with_)),
    ]


def counted(parameters: int) -> str:
    """``124 M``, ``1.56 G``."""
    for unit, name in ((1e9, "G"), (1e6, "M")):
        if parameters >= unit:
            return f"{steady(parameters / unit):.3g} {name}"
    return f"{parameters:,}" if parameters else MISSING


def figure(records: Sequence[Record]) -> Figure:
    """Peak over size, and over length; hollow where the device cannot hold it."""
    frame = build(records)
    figure, axes = canvas.new(11, 5, columns=2)
    _panel(axes[0], by_size(frame), "parameters", "Parameters")
    _panel(axes[1], by_length(frame), "tokens", "Tokens of the one sequence")
    facts = [display.where([pair.without for pair in pairs(frame)])]
    canvas.heading(figure, "Where checkpointing starts to pay (hollow: does not fit)", facts)
    return figure


def _panel(axes: Axes, found: Sequence[Pair], over: str, label: str) -> None:
    for index, (name, rows_) in enumerate(
        ((KEPT, [p.without for p in found]), (SPARED, [p.with_ for p in found]))
    ):
        places = [getattr(pair, over) for pair in found]
        peaks = [row["peak_allocated_bytes"] / 1e9 for row in rows_]
        colour = display.COLOURS[index]
        axes.plot(places, peaks, color=colour, label=name, zorder=1)
        for place, peak, row in zip(places, peaks, rows_, strict=True):
            face = colour if fits(row) else "white"
            axes.scatter([place], [peak], s=40, facecolor=face, edgecolor=colour, zorder=2)
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="Peak, GB (10⁹ bytes)")
    axes.legend()


def starts(found: Sequence[Pair], over: str, claimed: float, unit: str) -> Verdict:
    """From ``claimed`` on a step needs checkpoints, and below it does not."""
    below = [getattr(p, over) for p in found if fits(p.without)]
    above = [getattr(p, over) for p in found if p.pays]
    if not below or not above:
        return unmeasured(COMMAND)
    largest, smallest = max(below), min(above)
    near = smallest / OCTAVE.value <= claimed <= OCTAVE.value * smallest
    outcome: Outcome = (
        "confirmed" if largest < claimed <= smallest else "refined" if near else "refuted"
    )
    first = next(p for p in found if getattr(p, over) == smallest)
    sentence = (
        f"Claimed from {claimed:,.0f} {unit} on. The largest that fits without checkpoints has"
        f" {largest:,}, the smallest that fits with them alone {smallest:,}: there they take"
        f" {percent(first.spared)} of the peak away for {percent(first.slower - 1)} more time"
    )
    return verdict(outcome, sentence, [row for p in found for row in (p.without, p.with_)])


def large_models(frame: pd.DataFrame) -> Verdict:
    """More than a billion parameters."""
    return starts(by_size(frame), "parameters", 1e9, "parameters")


def long_sequences(frame: pd.DataFrame) -> Verdict:
    """More than 2,048 tokens."""
    return starts(by_length(frame), "tokens", 2048, "tokens")


def small_models(frame: pd.DataFrame) -> Verdict:
    """The smallest model fits without, by far."""
    found = by_size(frame)
    if not found:
        return unmeasured(COMMAND)
    fitting = [p for p in found if fits(p.without)]
    if not fitting or fitting[0] is not found[0]:
        return verdict("refuted", "The smallest model does not fit without", [found[0].without])
    listed = "; ".join(
        f"{counted(p.parameters)} parameters: {percent(p.spared)} less peak for"
        f" {percent(p.slower - 1)} more time, not needed"
        for p in fitting
    )
    return verdict("confirmed", f"Fit without: {listed}", [p.without for p in fitting])


def mixed_precision(frame: pd.DataFrame) -> Verdict:
    """Autocast lowers the peak, with and without checkpoints."""
    half = {p.parameters: p for p in by_size(frame)}
    full = [p for p in pairs(frame) if p.without["precision"] == "fp32"]
    both = [(p, half[p.parameters]) for p in full if p.parameters in half]
    if not both:
        return unmeasured(COMMAND)
    parts, outcomes, used = [], list[bool](), list[Row]()
    for single, mixed in both:
        for name, one, other in (
            (KEPT, single.without, mixed.without),
            (SPARED, single.with_, mixed.with_),
        ):
            saved = other["saved_after_forward_bytes"] / one["saved_after_forward_bytes"]
            peak = other["peak_allocated_bytes"] / one["peak_allocated_bytes"]
            outcomes.append(peak < 1)
            parts.append(f"{name}: saved {times(saved)} of fp32, peak {times(peak)}")
            used += [one, other]
    agreed: Outcome = "confirmed" if all(outcomes) else "refined" if any(outcomes) else "refuted"
    return verdict(agreed, f"Autocast in bfloat16. {'; '.join(parts)}", used)


ADVICE = (
    Claim(
        "large-models",
        "1. **Training large models**: >1B parameters",
        "from a billion parameters on a step fits with checkpoints alone",
        large_models,
    ),
    Claim(
        "long-sequences",
        "2. **Long sequences**: >2048 tokens",
        "from 2,048 tokens on a step fits with checkpoints alone",
        long_sequences,
    ),
    Claim(
        "small-models",
        "2. **Small models**: Memory isn't the bottleneck",
        "small models fit without checkpoints",
        small_models,
    ),
    Claim(
        "mixed-precision",
        "# Use mixed precision for additional memory savings",
        "autocast lowers the peak, with checkpoints and without",
        mixed_precision,
    ),
)
