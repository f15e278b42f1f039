"""Every bout of `auto` that was timed: a panel for a kind of contest, a column for a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import canvas, display
from bench.report.bouts import Bout, bouts
from bench.report.contests import LOOPS, label
from bench.store.contests import Contest

ROOM = 0.7
"""Of a column, for all contenders side by side."""
SPREAD = 0.07
"""Of a column, for all budgets of a contender."""


def figure(contests: Sequence[Contest]) -> Figure:
    """Ratios with their intervals; below 1 `auto` is faster."""
    held = [contest for contest in contests if contest.entries]
    kinds = sorted(set(map(_kind, held))) or [(False, LOOPS[False])]
    figure, panels = canvas.new(9.5, 1.8 + 3 * len(kinds), lines=len(kinds))
    timed = [bout for contest in held for bout in bouts(contest) if bout.ratio is not None]
    looks = display.looks(map(strategy_of, timed))
    for axes, kind in zip(panels, kinds, strict=True):
        columns = list(dict.fromkeys(label(one) for one in held if _kind(one) == kind))
        _panel(axes, columns, [bout for bout in timed if _kind(bout.contest) == kind], looks)
    _legend(figure)
    facts = f"{display.where(display.places(held))}\nsame budget, same rounds; 95 % intervals"
    first, *others = (name for _, name in kinds)
    canvas.heading(figure, "auto against every contender", [f"{facts}; {first}", *others])
    return figure


def _kind(contest: Contest) -> tuple[bool, str]:
    """Whether it is of what is compiled, which comes last; and in words."""
    loop = LOOPS[contest.accumulation]
    return contest.compiled, f"{loop}, compiled" if contest.compiled else loop


def _panel(
    axes: Axes, columns: list[str], fought: Sequence[Bout], looks: Mapping[str, display.Look]
) -> None:
    """Contests of one kind."""
    axes.axhline(1, color="0.4", linewidth=1, zorder=1)
    names = sorted({strategy_of(bout) for bout in fought})
    for place, name in enumerate(names):
        own = [bout for bout in fought if strategy_of(bout) == name]
        shift = ROOM * ((place + 0.5) / len(names) - 0.5)
        places = [columns.index(label(b.contest)) + shift + _aside(b) for b in own]
        _dots(axes, own, places, looks[name])
    axes.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
    axes.set_ylim(*_limits([bout.ratio.estimate for bout in fought if bout.ratio]))
    axes.set_ylabel("auto's step ÷ the contender's")
    axes.grid(axis="y", **canvas.GRID)


def _legend(figure: Figure) -> None:
    """Each contender once, whichever panels it is in."""
    pairs = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
    handles = {name: handle for panel in pairs for handle, name in panel}
    if handles:
        labels = {"handles": list(handles.values()), "labels": list(handles)}
        figure.legend(**labels, frameon=False, ncols=5, fontsize=8, loc="outside lower center")


def _limits(ratios: Sequence[float]) -> tuple[float, float]:
    """All estimates; a wide interval leaves the figure."""
    return min((1.0, *ratios)) - 0.1, max((1.0, *ratios)) + 0.1


def _aside(bout: Bout) -> float:
    """Smaller budgets stand to the left of larger ones."""
    sizes = [budget.budget_bytes for budget in bout.contest.budgets]
    part = sizes.index(bout.budget.budget_bytes) / len(sizes)
    return SPREAD * (part - 0.5)


def strategy_of(bout: Bout) -> str:
    """The other's strategy, whatever its parameters."""
    return bout.other.spec.partition("(")[0]


def _dots(axes: Axes, fought: Sequence[Bout], places: Sequence[float], look: display.Look) -> None:
    ratios = [bout.ratio for bout in fought if bout.ratio is not None]
    if not ratios:
        return
    middles = [ratio.estimate for ratio in ratios]
    below = [r.estimate - (r.estimate if r.low is None else r.low) for r in ratios]
    above = [(r.estimate if r.high is None else r.high) - r.estimate for r in ratios]
    axes.errorbar(
        places,
        middles,
        yerr=(below, above),
        fmt=look.marker,
        color=look.colour,
        markersize=3.5,
        elinewidth=0.8,
        alpha=0.8,
        label=strategy_of(fought[0]),
        zorder=2,
    )
