"""How a claim is judged from records: thresholds with their reasons, and one judge a kind of claim.

A judge takes the frame and returns a `Verdict` whose evidence gives the figures. It never guesses:
without the records that it needs it says *unmeasured*, and which command would measure them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from bench.report import display
from bench.report.depth import LAYERS, Series, series
from bench.report.frame import ATTENTION, FLASH, Row, rows
from bench.report.rounding import steady
from bench.report.stats import Fit

Outcome = Literal["confirmed", "refuted", "refined", "unmeasured"]
Judge = Callable[[pd.DataFrame], "Verdict"]

CHAIN = "mlp-chain"  # the textbook's cost model to the byte: one tensor a layer
MODEL = "gpt-mini"  # a transformer, for the cross-check
DEPTHS = (4, 8, 16, 32, 64)
SAVED, PEAK = "saved_after_forward_bytes", "peak_allocated_bytes"


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A number that decides verdicts, and why it is that number."""

    value: float
    reason: str


ORDER = Threshold(
    0.2, "orders in the textbook are half an exponent apart; nearer than 0.2 is nearest by far"
)
CLOSE = Threshold(0.05, "the textbook's «~»: its own figures lie 17 points or more apart")
NEAR = Threshold(0.5, "within half of the figure claimed, the order holds and the figure does not")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What records say of a claim: a sentence with figures, and the cells that they are from.

    ``gist`` is the figures alone, for a line among others.
    """

    verdict: Outcome
    evidence: str
    records: tuple[str, ...] = ()
    gist: str = ""


def command(workload: str, spec: str, *settings: str) -> str:
    """The command that measures a cell."""
    options = "".join(f" --option {setting}" for setting in settings)
    run = f'python -m bench run --workload {workload} --strategy "{spec}"{options}'
    return f"{run} --results results"


def at_depths(workload: str, spec: str) -> str:
    """The command that measures a depth series."""
    return f"{command(workload, spec, f'{LAYERS}=L')} for L = {', '.join(map(str, DEPTHS))}"


def unmeasured(*commands: str) -> Verdict:
    """No records; says what would make them."""
    return Verdict("unmeasured", f"No records. Measure with: {'; '.join(commands)}")


def verdict(outcome: Outcome, sentence: str, used: Iterable[Row], gist: str = "") -> Verdict:
    """A verdict that names device, version and date of what it is from."""
    rows = list({row["cell_id"]: row for row in used}.values())
    cells = tuple(sorted(row["cell_id"] for row in rows))
    return Verdict(outcome, f"{sentence} ({display.where(rows)})", cells, gist)


def gist_of(figures: Iterable[tuple[str, str]], what: str) -> str:
    """``what 0.51, 0.26 on mlp-chain; 0.03 on gpt-mini``, from pairs of workload and figure."""
    by_workload: dict[str, list[str]] = {}
    for workload, figure in figures:
        by_workload.setdefault(workload, []).append(figure)
    parts = (f"{', '.join(values)} on {workload}" for workload, values in by_workload.items())
    return f"{what} {'; '.join(parts)}"


def combined(outcomes: Iterable[Outcome]) -> Outcome:
    """What all say, or *refined* when they differ: the claim holds in some cases only."""
    different = set(outcomes)
    return different.pop() if len(different) == 1 else "refined"


def grade(value: float, low: float, high: float | None = None) -> Outcome:
    """A share against the share claimed, or against the range claimed. Nothing is near to 0."""
    high = low if high is None else high
    off = max(low - value, value - high, 0.0)
    if off <= (CLOSE.value if high else 0.0):
        return "confirmed"
    return "refined" if off <= NEAR.value * (low if value < low else high) else "refuted"


def matches(row: Row, strategy: str, params: Mapping[str, Any] | None = None) -> bool:
    """An `ok` row of that strategy, with at least those parameters, not under flash attention."""
    return (
        row["status"] == "ok"
        and row["strategy"] == strategy
        and row["workload_options"].get(ATTENTION) != FLASH
        and all(row["params"].get(key) == value for key, value in (params or {}).items())
    )


def plain(row: Row) -> bool:
    """Single precision, no optimizer in the step: what the textbook speaks of."""
    return (row["precision"], row["optimizer"]) == ("fp32", "none")


def _preference(row: Row) -> tuple[bool, bool, int, int, str, str]:
    """Measured before modelled, plain, deeper, fewer parameters, later: the last is the best."""
    layers = row["workload_options"].get(LAYERS, 0)
    kind = (not row["modelled"], plain(row))
    return *kind, layers, -len(row["spec"]), row["started_at_utc"], row["cell_id"]


def cells(
    frame: pd.DataFrame,
    workload: str,
    strategy: str,
    params: Mapping[str, Any] | None = None,
    *,
    needs: Sequence[str] = (),
    layers: int | None = None,
) -> list[Row]:
    """Matching rows of a workload that have what a judge needs, the best last."""
    candidates = [
        row
        for row in rows(frame)
        if row["workload"] == workload
        and matches(row, strategy, params)
        and all(row[name] is not None for name in needs)
        and layers in (None, row["workload_options"].get(LAYERS))
    ]
    return sorted(candidates, key=_preference)


def depth_series(
    frame: pd.DataFrame, workload: str, strategy: str, params: Mapping[str, Any] | None = None
) -> Series | None:
    """The series to judge growth by: measured, then longest, then plainest."""
    candidates = [
        one
        for one in series(frame)
        if one.first["workload"] == workload and matches(one.first, strategy, params)
    ]
    candidates.sort(key=lambda s: (len(s.layers), _preference(s.rows[-1])))
    measured = [one for one in candidates if not one.first["modelled"]]
    return (measured or candidates)[-1] if candidates else None


def spec_of(strategy: str, params: Mapping[str, Any] | None) -> str:
    """``every_k(k=4)``."""
    inside = ", ".join(f"{key}={value}" for key, value in (params or {}).items())
    return f"{strategy}({inside})" if inside else strategy


def near_order(fit: Fit, order: float) -> bool:
    """The fitted exponent is the one claimed."""
    return abs(fit.exponent - order) <= ORDER.value


def growth(
    strategy: str,
    order: float,
    params: Mapping[str, Any] | None = None,
    *,
    column: str = SAVED,
    what: str = "bytes saved after forward grow",
) -> Judge:
    """``column`` grows with depth as L to the power ``order``.

    Judged on the textbook's chain; a transformer that disagrees refines it.
    """

    def judge(frame: pd.DataFrame) -> Verdict:
        parts, outcomes, used, grown = [], list[Outcome](), list[Row](), list[tuple[str, str]]()
        for workload in (CHAIN, MODEL):
            one = depth_series(frame, workload, strategy, params)
            fit = one.growth(column) if one else None
            if one is None or fit is None:
                if workload == CHAIN:
                    return unmeasured(at_depths(CHAIN, spec_of(strategy, params)))
                continue
            held = near_order(fit, order)
            outcomes.append("confirmed" if held else "refuted")
            parts.append(f"{workload}, {_growing(one, fit, column, what)}")
            grown.append((workload, f"L^{fit.exponent:.2f}"))
            used += [*one.rows, *(one.base if fit.constant else ())]
        sentence = f"Claimed L^{order:g}. {'; '.join(parts)}"
        return verdict(combined(outcomes), sentence, used, gist_of(grown, f"{what} as"))

    return judge


def _growing(one: Series, fit: Fit, column: str, what: str) -> str:
    """``L = 4, 8, 16, 32: … grow as L^0.51 (R² 0.998) above a constant 0.5 MB, peak as L^0.47``."""
    span = ", ".join(map(str, one.layers))
    base = f" above a constant {display.megabytes(fit.constant)} MB" if fit.constant else ""
    peak = one.growth(PEAK) if column == SAVED else None
    tail = f", the peak as L^{peak.exponent:.2f}" if peak else ""
    grown = f"L^{fit.exponent:.2f} (R² {fit.r_squared:.3f})"
    return f"L = {span}: {what} as {grown}{base}{tail}"


def recompute(
    strategy: str,
    low: float,
    high: float | None = None,
    params: Sequence[Mapping[str, Any]] = ({},),
    *,
    workloads: Sequence[str] = (CHAIN, MODEL),
    of_step: bool = False,
    layers: int | None = None,
) -> Judge:
    """The counted extra compute, as a share of a forward (or of a step), is what is claimed."""
    column = "recompute_of_step" if of_step else "recompute_of_forward"

    def judge(frame: pd.DataFrame) -> Verdict:
        best = [
            group[-1]
            for workload in workloads
            for chosen in params
            if (group := cells(frame, workload, strategy, chosen, needs=(column,), layers=layers))
        ]
        if not best:
            settings = () if layers is None else (f"layers={layers}",)
            return unmeasured(command(workloads[-1], spec_of(strategy, params[0]), *settings))
        outcome = combined(grade(row[column], low, high) for row in best)
        claimed = display.percent(low) + ("" if high is None else f" to {display.percent(high)}")
        share = "step" if of_step else "forward"
        counted = "; ".join(_counted(row, column) for row in best)
        gist = gist_of(((row["workload"], display.percent(row[column])) for row in best), "counted")
        return verdict(outcome, f"Claimed {claimed} of a {share}, counted {counted}", best, gist)

    return judge


def _counted(row: Row, column: str) -> str:
    share = display.percent(row[column])
    forward = display.percent(row["recompute_of_forward"])
    tail = f" ({forward} of a forward)" if column == "recompute_of_step" else ""
    entered = row["block_forwards"]
    times = (
        f", each block entered {steady(sum(entered) / len(entered)):.2f} times" if entered else ""
    )
    return f"{shape(row)}, {row['label']}: {share}{tail}{times}"


def shape(row: Row) -> str:
    """``gpt-mini (layers=8, dim=256)``."""
    sizes = row["workload_options"]
    shown = ", ".join(f"{name}={sizes[name]}" for name in (LAYERS, "dim") if name in sizes)
    return f"{row['workload']} ({shown})"
