"""The staircase of budgets: what `optimal` takes at each, measured and predicted, among rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import canvas, plane
from bench.report.budgets import Line, heading, lines, ratio, rule
from bench.report.display import MEGABYTE, Look
from bench.report.frame import Row
from bench.report.stats import LEVEL
from bench.store.budgets import Contender, Study

OPTIMAL = "optimal"


def strategies_of(study: Study) -> set[str]:
    """Names of the strategies that the figure of a study shows."""
    return {OPTIMAL, *(_name(c) for c in study.contenders if c.heuristics)}


def _name(contender: Contender) -> str:
    return rule(contender).partition("(")[0]


def figure(study: Study, look: Mapping[str, Look]) -> Figure:
    """Budget against step time: the staircase, its prediction, and a point for every rule."""
    figure, [axes] = canvas.new(8.5, 5.6)
    steps, rules = list(_steps(study)), list(_rules(study))
    plane.draw(axes, [*rules, *steps], look)
    colour = look[OPTIMAL].colour
    plane.draw_front(
        axes, steps, "optimal, measured", color=colour, linestyle="-", linewidth=1.5, zorder=1
    )
    _predicted(axes, lines(study), colour)
    axes.legend(frameon=False, loc="upper right", fontsize=8)
    axes.set(
        xlabel="Budget of optimal, or measured peak of a rule, MB (10⁶ bytes)",
        ylabel=f"Step time × none, {100 * LEVEL:.0f} % interval",
    )
    canvas.head(figure, "what a budget costs", [heading(study)])
    plane.label(axes, rules, [steps], steps)
    return figure


def _steps(study: Study) -> Iterator[Row]:
    for line in lines(study):
        yield {
            "strategy": OPTIMAL,
            "label": OPTIMAL,
            "exact": True,
            "peak_allocated_bytes": line.budget.budget_bytes,
            "step_ratio": line.step.estimate,
            "step_ratio_low": line.step.low,
            "step_ratio_high": line.step.high,
        }


def _rules(study: Study) -> Iterator[Row]:
    for contender in study.contenders:
        if contender.heuristics:
            interval = ratio(contender, study.contenders[0])
            yield {
                "strategy": _name(contender),
                "label": rule(contender),
                "exact": True,
                "peak_allocated_bytes": contender.peak_allocated_bytes,
                "step_ratio": interval.estimate,
                "step_ratio_low": interval.low,
                "step_ratio_high": interval.high,
            }


def _predicted(axes: Axes, budgets: Sequence[Line], colour: str) -> None:
    axes.plot(
        [line.budget.budget_bytes / MEGABYTE for line in budgets],
        [line.predicted_ratio for line in budgets],
        color=colour,
        linestyle=":",
        linewidth=1.5,
        drawstyle="steps-post",
        zorder=1,
        label="optimal, predicted from measured block times",
    )
