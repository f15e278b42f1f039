"""``python -m bench plan``: the best plan for a budget, what it costs, and its neighbours."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from bench.cli import flags, plan_ranks
from bench.cli.flags import TextFormat

if TYPE_CHECKING:
    from strategies.contract.budgeted import Budgeted
    from strategies.schedules.budget import Answer
    from strategies.schedules.profile import ChainProfile
    from strategies.schedules.schedule import Schedule
    from strategies.schedules.solution import Solution

STEPS = 40  # budgets between the smallest and none that are looked at for neighbours
_ROUNDING = 1e-9  # of sums of times, in another order


@flags.with_setup
def plan(  # noqa: PLR0917 - one parameter a flag
    setup: flags.Setup,
    workload: flags.Workload,
    budget: Annotated[
        str, typer.Option(help="8GB, 8GiB, bytes, or 50% of what none needs; of each rank.")
    ] = "",
    device: Annotated[
        str, typer.Option(help="cpu, cuda …, or a simulated one: sim:h100-80gb.")
    ] = "cpu",
    strategy: Annotated[
        str, typer.Option(help="optimal, hybrid, selective_ops, milp or another with a budget.")
    ] = "optimal",
    ranks: Annotated[
        str, typer.Option(help="Of a simulated cluster: their number, or auto for the fewest.")
    ] = "",
    parallel: flags.ParallelOption = "fsdp2(mixed=true)",
    modelled: flags.Modelled = False,
    output: Annotated[TextFormat, typer.Option("--format", help="How to print.")] = TextFormat.text,
) -> None:
    """Find the fastest plan whose predicted peak is within a budget; say how good it is.

    Profiles the chain on the device, its block times measured, or on fake tensors for a simulated
    one; nothing is stored.
    """
    if ranks:
        facts = plan_ranks.facts_of(setup, (workload, device, strategy), ranks, parallel, budget)
        _print(facts, plan_ranks.sentences, output)
        return
    if not budget:
        raise ValueError("plan needs --budget, or --ranks, of which each has its device's memory")
    from bench.run import guarded, planning

    spec = planning.budgeted(strategy, budget).spec()
    cell = setup.cell(workload, device, spec, rounds=0)
    asked = msgspec.json.encode((cell, strategy, budget, not modelled))
    facts = json.loads(guarded.answer(planned, asked, cell))
    _print(facts, sentences, output)


def planned(payload: bytes) -> bytes:
    """The facts of a plan, both as JSON: a cell, a strategy, a budget, and whether to measure."""
    from bench.cells.cell import Cell
    from bench.run import guarded, planning

    cell, strategy, budget, measured = msgspec.json.decode(
        payload, type=tuple[Cell, str, str, bool]
    )
    planner = planning.budgeted(strategy, budget)
    with guarded.named(cell):
        profile = planning.profile_cell(cell, measured=measured, strategy=planner)
        answer = answer_of(profile, planner, budget)
        facts = {
            "workload": cell.workload,
            "device": cell.device,
            "modelled": cell.simulated,
            "times": planning.times_of(cell, measured=measured),
            "strategy": planner.name(),
            "among": planner.among,
            "budget_bytes": answer.budget_bytes,
            **facts_of(answer),
            **neighbours(answer, planner),
        }
    return json.dumps(facts).encode()


def answer_of(profile: ChainProfile, planner: Budgeted, budget: str) -> Answer:
    """The plan for a budget.

    Raises:
        ValueError: nothing fits.
    """
    from strategies.schedules import budget as budgets

    budget_bytes = budgets.resolve(budget, profile)
    solution = planner.solution(profile, budget_bytes)
    if solution is None:
        smallest_bytes = planner.smallest_bytes(profile)
        raise ValueError(
            f"nothing fits into {budget_bytes:,} bytes; the smallest budget that does is"
            f" {smallest_bytes:,} bytes"
        )
    return budgets.Answer.of(profile, budget_bytes, solution)


def _print(
    facts: dict[str, Any],
    said: Callable[[dict[str, Any]], Iterator[str]],
    output: TextFormat,
) -> None:
    if output is TextFormat.json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(said(facts)))


def facts_of(answer: Answer) -> dict[str, Any]:
    """What the plan costs, and how far it is from the bound."""
    from strategies.schedules import plan as plans
    from strategies.schedules.interpreter import predict

    predicted = answer.prediction
    none = predict(answer.profile, plans.plain(len(answer.profile.blocks)))
    return {
        "plan": answer.schedule.render(),
        "predicted_peak_bytes": predicted.peak_bytes,
        "none_peak_bytes": none.peak_bytes,
        "used_fraction": predicted.peak_bytes / answer.budget_bytes,
        "peak_phase": predicted.peak_phase,
        "step_ratio": predicted.step_s / none.step_s,
        "gap_fraction": answer.gap_fraction,
        "slot_bytes": answer.solution.slot_bytes,
    }


def neighbours(answer: Answer, strategy: Budgeted) -> dict[str, Any]:
    """The next plan that is cheaper, and the next that is smaller."""
    frontier, here = _Frontier(answer.profile, strategy, answer.schedule), answer.prediction
    cheaper = frontier.cheaper(answer.budget_bytes, here.step_s * (1 - _ROUNDING))
    return {"next_cheaper": cheaper, "next_smaller": frontier.smaller(here.peak_bytes)}


class _Frontier:
    """The best plans at evenly spaced budgets, from what no plan changes to that of none.

    A plan is found when it is asked for: with more room, none is slower, so that few are. The
    smallest that fits, which takes long to find, is asked for where the last of these does not.
    """

    def __init__(
        self, profile: ChainProfile, strategy: Budgeted, known: Schedule | None = None
    ) -> None:
        from bench.run.planning import budgets_between
        from strategies.schedules import plan as plans
        from strategies.schedules.interpreter import predict
        from strategies.schedules.modes import away_by

        high_bytes = predict(profile, plans.plain(len(profile.blocks))).peak_bytes
        self.profile, self.strategy = profile, _quicker(profile, strategy)
        self.smallest_bytes = functools.partial(strategy.smallest_bytes, profile)
        self.known = known if known and any(map(away_by, known.modes)) else None
        self.budgets = budgets_between(profile.resident_bytes, high_bytes, STEPS + 1)
        self.at = functools.cache(self._at)

    def cheaper(self, above_bytes: int, below_s: float) -> dict[str, Any] | None:
        """The smallest for a budget above one, that takes less than so long."""

        def is_cheaper(budget_bytes: int) -> bool:
            plan = self.at(budget_bytes)
            return plan is not None and plan["step_s"] < below_s

        budgets = self.budgets[bisect.bisect_right(self.budgets, above_bytes) :]
        return next(map(self.at, _from_first(budgets, is_cheaper)), None)

    def smaller(self, below_bytes: int) -> dict[str, Any] | None:
        """The largest that peaks below so much."""
        budgets = self.budgets[: bisect.bisect_left(self.budgets, below_bytes)]
        for plan in itertools.takewhile(bool, map(self.at, reversed(budgets))):
            if plan and plan["predicted_peak_bytes"] < below_bytes:
                return plan
        least_bytes = self.smallest_bytes()
        return self.at(least_bytes) if least_bytes < below_bytes else None

    def _at(self, budget_bytes: int) -> dict[str, Any] | None:
        from strategies.schedules.interpreter import predict

        solution = self._solution(budget_bytes)
        if solution is None:
            return None
        predicted = predict(self.profile, solution.schedule)
        return {
            "plan": solution.schedule.render(),
            "predicted_peak_bytes": predicted.peak_bytes,
            "step_s": predicted.step_s,
            "step_ratio": predicted.step_s / self.profile.plain_step_s,
        }

    def _solution(self, budget_bytes: int) -> Solution | None:
        """Where outputs leave, what is sent is that of the known schedule: that is quick."""
        if self.known is None:
            return self.strategy.solution(self.profile, budget_bytes)
        from strategies.schedules.solution import fastest
        from strategies.solvers import selective_ops_near

        nothing_leaves = dataclasses.replace(self.profile, link_bytes_per_s=0.0)
        solutions = (
            self.strategy.solution(nothing_leaves, budget_bytes),
            selective_ops_near.solve(self.profile, budget_bytes, self.known),
        )
        return fastest(self.profile, solutions)


def _from_first(budgets: Sequence[int], holds: Callable[[int], bool]) -> Sequence[int]:
    """From the first budget on for which something holds, as it does for all that follow.

    Mostly it holds soon: asked in steps that double, then between the last two.
    """
    done = width = 0
    while done < len(budgets) and not holds(budgets[min(done + width, len(budgets) - 1)]):
        done, width = done + width + 1, 2 * width + 1
    rest = budgets[done : done + width]
    return budgets[done + bisect.bisect(rest, False, key=holds) :]


def _quicker(profile: ChainProfile, strategy: Budgeted) -> Budgeted:
    """`optimal` with an eighth of the work, or another as it is.

    Memory is coarser where that takes long: of equal blocks, a coarse table takes no less, and what
    it leaves open takes a search.
    """
    from strategies.optimal import Optimal
    from strategies.solvers import optimal

    if not isinstance(strategy, Optimal):
        return strategy
    slots = strategy.slots or optimal.slots_for(profile, optimal.WORK // 8)
    return dataclasses.replace(strategy, slots=slots)


def sentences(facts: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    from strategies.schedules.budget import counted

    none = facts["none_peak_bytes"]
    yield facts["plan"]
    yield (
        f"{facts['workload']} on {facts['device']}: predicted peak"
        f" {_mb(facts['predicted_peak_bytes'])} of a budget of {_mb(facts['budget_bytes'])}"
        f" ({facts['used_fraction']:.1%}), {facts['predicted_peak_bytes'] / none:.2f}× none;"
        f" reached in {facts['peak_phase']}."
    )
    yield (
        f"Step time by {facts['times']} block times: {facts['step_ratio']:.3f}× none; no"
        f" {facts['among']} within the budget is faster by more than {facts['gap_fraction']:.2%} of"
        f" a step (memory counted {counted(facts['slot_bytes'])})."
    )
    for name, what in (("next_cheaper", "cheaper"), ("next_smaller", "smaller")):
        other = facts[name]
        if other is None:
            yield f"No plan is {what}."
        else:
            yield (
                f"The next {what} plan peaks at {_mb(other['predicted_peak_bytes'])} and takes"
                f" {other['step_ratio']:.3f}× none: {other['plan']}"
            )


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
