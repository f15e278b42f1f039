"""``python -m bench plan``: the best plan for a budget, what it costs, and its neighbours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import flags, plan_ranks
from bench.cli.flags import TextFormat

if TYPE_CHECKING:
    from strategies.contract.budgeted import Budgeted
    from strategies.schedules.budget import Answer
    from strategies.schedules.profile import ChainProfile

STEPS = 40  # budgets between the smallest and none that are looked at for neighbours
FEW_STEPS = 12  # the same where one budget takes long


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
    from bench.run import culprit, planning
    from strategies.schedules import budget as budgets

    planner = planning.budgeted(strategy, budget)
    cell = setup.cell(workload, device, planner.spec(), rounds=0)
    with culprit.named(cell):
        profile = planning.profile_cell(cell, measured=not modelled, strategy=planner)
    budget_bytes = budgets.resolve(budget, profile)
    solution = planner.solution(profile, budget_bytes)
    if solution is None:
        smallest_bytes = planner.smallest_bytes(profile)
        raise ValueError(
            f"nothing fits into {budget_bytes:,} bytes; the smallest budget that does is"
            f" {smallest_bytes:,} bytes"
        )
    answer = budgets.Answer.of(profile, budget_bytes, solution)
    facts = {
        "workload": cell.workload,
        "device": cell.device,
        "modelled": cell.simulated,
        "times": planning.times_of(cell, measured=not modelled),
        "strategy": planner.name(),
        "among": planner.among,
        "budget_bytes": budget_bytes,
        **facts_of(answer),
        **neighbours(answer, planner),
    }
    _print(facts, sentences, output)


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
    here = answer.prediction
    frontier = _frontier(answer.profile, strategy)
    others = sorted(frontier, key=lambda item: item["predicted_peak_bytes"])
    slack_s = 1e-9 * here.step_s
    cheaper = [o for o in others if o["step_s"] < here.step_s - slack_s]
    smaller = [o for o in others if o["predicted_peak_bytes"] < here.peak_bytes]
    return {
        "next_cheaper": cheaper[0] if cheaper else None,
        "next_smaller": smaller[-1] if smaller else None,
    }


def _frontier(profile: ChainProfile, strategy: Budgeted) -> Iterator[dict[str, Any]]:
    """The best plans at evenly spaced budgets, from the smallest that fits to that of none."""
    from bench.run.planning import budgets_between
    from strategies.schedules import plan as plans
    from strategies.schedules.interpreter import predict

    low = strategy.smallest_bytes(profile)
    high = predict(profile, plans.plain(len(profile.blocks))).peak_bytes
    quick, steps = _quicker(profile, strategy)
    for budget_bytes in budgets_between(low, high, steps + 1):
        solution = quick.solution(profile, budget_bytes)
        if solution is not None:
            predicted = predict(profile, solution.schedule)
            yield {
                "plan": solution.schedule.render(),
                "predicted_peak_bytes": predicted.peak_bytes,
                "step_s": predicted.step_s,
                "step_ratio": predicted.step_s / profile.plain_step_s,
            }


def _quicker(profile: ChainProfile, strategy: Budgeted) -> tuple[Budgeted, int]:
    """`optimal` with coarser memory, or another as it is; and how many budgets to try."""
    from strategies.optimal import Optimal
    from strategies.solvers import optimal

    if not isinstance(strategy, Optimal):
        return strategy, FEW_STEPS
    slots = strategy.slots or min(500, optimal.slots_for(profile))
    return dataclasses.replace(strategy, slots=slots), STEPS


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
