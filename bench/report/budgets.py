"""What a budget study says: per budget a line with its verdict, as a table and as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import pandas as pd

from bench.report import display, separated, tables, trust
from bench.report.display import MISSING, cell, code, megabytes, percent
from bench.report.frame import Row
from bench.report.rounding import steady
from bench.report.stats import Interval, paired_ratio
from bench.report.tables import plain
from bench.store.budgets import Budget, Contender, Study

Verdict = Literal["faster", "within noise", "slower", "same plan", "no rule fits"]
VERDICTS: tuple[str, ...] = get_args(Verdict)

HEADER = (
    "Budget, MB",
    "Plan of `optimal`",
    "Predicted peak, MB",
    "Measured peak, MB",
    "Kept",
    "Used",
    "Predicted step × none",
    "Measured step × none [95 %]",
    "Prediction error",
    "Gap to the bound",
    "Best rule that fits",
    "Its step × none [95 %]",
    "`optimal` ÷ it [95 %]",
    "Verdict",
)

NOTES = (
    f"{display.UNITS}. Ten budgets, evenly spaced from the smallest that any plan fits into to "
    "what `none` needs. Plans are made from block times measured on the same device in the same "
    "process. Kept: the peak that the allocator measured is within the budget; used: that peak "
    "over the budget. Steps are "
    f"{tables.STEP_NOTE} Gap to the bound: no nested plan within the budget has a predicted step "
    "shorter by more than this. The best rule is that of `none`, `every_layer`, `every_k` (every "
    "k), `sqrt` and `recursive` whose measured peak is within the budget and whose measured ratio "
    "is least: chosen after the measurement, so luck is on its side. Verdict, of the paired ratio "
    "of `optimal` to that rule: *faster* or *slower* when its interval does not hold 1.\n"
)


@dataclasses.dataclass(frozen=True)
class Line:
    """One budget.

    Attributes:
        budget: as stored.
        chosen: what `optimal` ran.
        predicted_ratio: its predicted step over that of `none`.
        step: its measured step over that of `none`.
        gap: how much shorter than predicted a nested plan might be at most, as a part.
        best: the fastest rule that fits, as measured; ``None``: none fits.
        best_step: its measured step over that of `none`.
        versus: measured step of `optimal` over that of the rule.
    """

    budget: Budget
    chosen: Contender
    predicted_ratio: float
    step: Interval
    gap: float
    best: Contender | None
    best_step: Interval | None
    versus: Interval | None

    @property
    def kept(self) -> bool:
        """The measured peak is within the budget."""
        return self.chosen.peak_allocated_bytes <= self.budget.budget_bytes

    @property
    def used(self) -> float:
        """The measured peak as a part of the budget."""
        return self.chosen.peak_allocated_bytes / self.budget.budget_bytes

    @property
    def error(self) -> float:
        """Predicted over measured step ratio, minus 1."""
        return steady(self.predicted_ratio / self.step.estimate) - 1

    @property
    def verdict(self) -> Verdict:
        """Of `optimal` against the best rule."""
        if self.best is None or self.versus is None:
            return "no rule fits"
        if self.best == self.chosen:
            return "same plan"
        if self.versus.holds(1):
            return "within noise"
        return "faster" if self.versus.estimate < 1 else "slower"


def lines(study: Study) -> list[Line]:
    """A line for each budget, from the smallest."""
    return [_line(study, one) for one in sorted(study.budgets, key=lambda b: b.budget_bytes)]


def _line(study: Study, budget: Budget) -> Line:
    none, chosen = study.contenders[0], study.contenders[budget.contender]
    best = best_rule(study, budget.budget_bytes)
    return Line(
        budget=budget,
        chosen=chosen,
        predicted_ratio=chosen.predicted_step_s / none.predicted_step_s,
        step=ratio(chosen, none),
        gap=steady(chosen.predicted_step_s / budget.bound_step_s) - 1,
        best=best,
        best_step=ratio(best, none) if best else None,
        versus=ratio(chosen, best) if best else None,
    )


def ratio(one: Contender, other: Contender) -> Interval:
    """Paired step ratio of two contenders."""
    interval = paired_ratio(one.step_s, other.step_s)
    assert interval is not None  # a study without rounds is refused
    return interval


def best_rule(study: Study, budget_bytes: int) -> Contender | None:
    """The rule with the least measured step ratio among those whose measured peak fits."""
    none = study.contenders[0]
    fitting = [
        c for c in study.contenders if c.heuristics and c.peak_allocated_bytes <= budget_bytes
    ]
    return min(fitting, key=lambda c: (ratio(c, none).estimate, c.plan), default=None)


def rule(contender: Contender) -> str:
    """The first of the rules that give this plan; or its plan, if none does."""
    return contender.heuristics[0] if contender.heuristics else contender.plan


def heading(study: Study) -> Row:
    """The study as the rest of the report describes a row."""
    return {
        "workload": study.workload,
        "workload_options": study.workload_options,
        "device": study.device,
        "device_name": study.device_name,
        "modelled": False,
        "precision": study.precision,
        "optimizer": study.optimizer,
        "torch_version": study.torch_version,
        "started_at_utc": study.started_at_utc,
    }


def markdown(studies: Sequence[Study]) -> str:
    """Every study as a table under a line that says where it was measured."""
    parts = ["# Budgets\n", NOTES]
    for study in studies:
        parts += [
            f"## {cell(study.workload)} on {cell(study.device)}\n",
            cell(facts(study)) + "\n",
            _gradients(study) + "\n",
            display.table(HEADER, [_cells(line) for line in lines(study)]),
        ]
    return "\n".join(parts)


def facts(study: Study) -> str:
    """Where, when and with what, in a line."""
    again = paired_ratio(study.none_again_step_s, study.contenders[0].step_s)
    remarks = [*trust.of_rounds({study.rounds}), *([trust.equal(again)] if again else [])]
    row, said = heading(study), " ".join(remarks)
    return (
        f"{display.where([row])}. {display.options(row)}. precision {study.precision}, optimizer"
        f" {study.optimizer}. threads {study.threads}. rounds {study.rounds}. {said}"
    ).rstrip()


def _gradients(study: Study) -> str:
    wrong = [one.plan for one in study.contenders if not one.grads_bitwise_equal]
    if not wrong:
        return (
            f"Gradients of all {len(study.contenders)} plans are bitwise equal to those of `none`."
        )
    return f"**Gradients differ from those of `none`** under {', '.join(map(code, wrong))}."


def _cells(line: Line) -> list[str]:
    best = line.best
    return [
        megabytes(line.budget.budget_bytes),
        code(display.abbreviate(line.chosen.plan)),
        megabytes(line.chosen.predicted_peak_bytes),
        megabytes(line.chosen.peak_allocated_bytes),
        "yes" if line.kept else "**no**",
        percent(line.used),
        f"{steady(line.predicted_ratio):.3f}×",
        interval(line.step),
        percent(line.error, sign="+"),
        percent(line.gap, 2),
        cell(rule(best)) if best else MISSING,
        interval(line.best_step),
        interval(line.versus),
        f"**{line.verdict}**" if line.verdict == "slower" else line.verdict,
    ]


def interval(ratio: Interval | None) -> str:
    """``1.241× [1.228, 1.252]``; ``†`` where it is unstable."""
    if ratio is None:
        return MISSING
    return display.estimate(
        ratio.estimate, ratio.low, ratio.high, unstable=ratio.unstable, digits=3
    )


def csv(studies: Sequence[Study]) -> str:
    """Every budget of every study: raw bytes, ratios to six decimals."""
    frame = pd.DataFrame([row for study in studies for row in _rows(study)], dtype=object)
    return separated.csv(frame)


def _rows(study: Study) -> Iterator[dict[str, object]]:
    shared = {**heading(study), "machine_id": study.machine_id, "rounds": study.rounds}
    for line in lines(study):
        own = {
            "budget_bytes": line.budget.budget_bytes,
            "plan": line.chosen.plan,
            "predicted_peak_bytes": line.chosen.predicted_peak_bytes,
            "peak_allocated_bytes": line.chosen.peak_allocated_bytes,
            "kept": line.kept,
            "used": line.used,
            "grads_bitwise_equal": line.chosen.grads_bitwise_equal,
            "predicted_step_ratio": line.predicted_ratio,
            **_columns("step_ratio", line.step),
            "prediction_error": line.error,
            "gap": line.gap,
            "best_rule": line.best and rule(line.best),
            **_columns("best_rule_step_ratio", line.best_step),
            **_columns("over_best_rule", line.versus),
            "verdict": line.verdict,
        }
        yield {name: plain(value) for name, value in {**shared, **own}.items()}


def _columns(name: str, ratio: Interval | None) -> dict[str, float | None]:
    values = (ratio.estimate, ratio.low, ratio.high) if ratio else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
