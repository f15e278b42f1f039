"""What intervals cover: the table, and the figure of coverage against the number of rounds."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import canvas, display
from bench.report.display import COLOURS, MARKERS, cell, percent
from bench.report.rounding import steady
from bench.store.coverage import Case, Method, Study

LEAST, MOST = 0.94, 0.97
"""What an interval of 95 % is to cover, whatever the noise."""

NOTES = (
    "How often the interval of a step ratio holds the true one, in simulated rounds of two "
    "contenders, and in brackets how wide it is (median, as a part of the ratio). *Interval*: the "
    "signed-rank interval of the Hodges-Lehmann estimate, as every table here has it. *Bootstrap*: "
    "the percentile bootstrap of the median, as they had it before; too narrow for few rounds. "
    "Both are to cover 95 %; **bold** is less than "
    f"{percent(LEAST, 0)} or more than {percent(MOST, 0)}. Fewer than 4 rounds have no interval, 4 "
    "and 5 one that supposes normal noise. The order effect cancels where rounds are even; an odd "
    "number is raised by one when steps are timed.\n"
)

METHODS = {"interval": "signed-rank interval", "bootstrap": "bootstrap of the median (before)"}


def markdown(studies: Sequence[Study]) -> str:
    """One table a study: a line a number of rounds, two columns a kind of noise."""
    parts = ["# What intervals cover\n", NOTES]
    for study in studies:
        parts.append(cell(facts(study)) + "\n")
        parts.append("".join(f"- {cell(text)}\n" for text in _noises(study)))
        header = ["Rounds", *(f"{cell(name)}: {kind}" for name in study.noises for kind in METHODS)]
        body = [_line(study, rounds) for rounds in sorted({one.rounds for one in study.cases})]
        parts.append(display.table(header, body, right=len(header)))
    return "\n".join(parts)


def facts(study: Study) -> str:
    """With what, when."""
    return (
        f"{study.samples:,} samples of each; true ratio {steady(study.ratio):.3f}; seed "
        f"{study.seed}; {study.resamples:,} resamples; numpy {study.numpy_version}; "
        f"{study.started_at_utc[:10]}."
    )


def _noises(study: Study) -> list[str]:
    """What each kind is, with the least and the most that its intervals cover."""
    return [
        f"{name}: steps × {what}. The interval covers {_range(study, name, 'interval')}, the "
        f"bootstrap {_range(study, name, 'bootstrap')}."
        for name, what in study.noises.items()
    ]


def _range(study: Study, noise: str, method: str) -> str:
    covered = [_covered(study, getattr(case, method)) for case in _of(study, noise)]
    return f"{percent(min(covered))} to {percent(max(covered))}"


def _of(study: Study, noise: str) -> list[Case]:
    return sorted((one for one in study.cases if one.noise == noise), key=lambda one: one.rounds)


def _covered(study: Study, method: Method) -> float:
    return method.covered / study.samples


def _line(study: Study, rounds: int) -> list[str]:
    cases = {one.noise: one for one in study.cases if one.rounds == rounds}
    return [
        str(rounds),
        *(
            _cell(study, getattr(cases[noise], method)) if noise in cases else display.MISSING
            for noise in study.noises
            for method in METHODS
        ),
    ]


def _cell(study: Study, method: Method) -> str:
    covered = _covered(study, method)
    text = percent(covered)
    shown = text if LEAST <= covered <= MOST else f"**{text}**"
    return f"{shown} ({percent(method.median_width)})"


def figure(studies: Sequence[Study]) -> Figure:
    """Coverage over rounds, a panel a method, a line a kind of noise; of the first study."""
    study = studies[0]
    figure, axes = canvas.new(10, 4.6, columns=len(METHODS))
    for panel, method in zip(axes, METHODS, strict=True):
        _draw(panel, study, method)
        panel.set(xlabel="Rounds", ylim=(82, 100))
    axes[0].set_ylabel("Samples whose interval holds the true ratio, %")
    axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    said = [
        f"{name}\n{study.samples:,} samples a point; {_date(study)}" for name in METHODS.values()
    ]
    canvas.heading(figure, f"What intervals of nominally {percent(study.level, 0)} cover", said)
    return figure


def _date(study: Study) -> str:
    return f"seed {study.seed}, {study.started_at_utc[:10]}"


def _draw(axes: Axes, study: Study, method: str) -> None:
    axes.axhspan(100 * LEAST, 100 * MOST, color="0.93", zorder=0)
    axes.axhline(100 * study.level, color="0.6", linewidth=0.8, zorder=1)
    for index, noise in enumerate(study.noises):
        cases = _of(study, noise)
        axes.plot(
            [case.rounds for case in cases],
            [100 * _covered(study, getattr(case, method)) for case in cases],
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
            linewidth=1,
            label=noise,
        )
    axes.grid(visible=True, **canvas.GRID)
    axes.set_axisbelow(True)
