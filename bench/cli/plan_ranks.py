"""``plan --ranks``: the plan with which a cluster trains a model, or the smallest that does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.cli import flags

if TYPE_CHECKING:
    from bench.cells.cell import Cell
    from bench.ranks.simulated_plan import RankPlan

AUTO = "auto"


def facts_of(
    setup: flags.Setup, names: tuple[str, str, str], ranks: str, parallel: str, budget: str
) -> dict[str, Any]:
    """What a cluster trains the model with.

    Args:
        setup: of the workload.
        names: of workload, device and strategy.
        ranks: a number, or ``auto`` for the smallest cluster.
        parallel: how they share the model.
        budget: of each rank; empty: the device's memory.

    Raises:
        ValueError: bad input, or nothing fits.
    """
    import msgspec

    from bench.devices import accelerators
    from bench.ranks import simulated_plan
    from bench.run import planning

    workload, device, strategy = names
    count = counted(ranks)
    own = setup.cell(workload, device, "none", rounds=0)
    check_simulated(own)
    memory_bytes = rank_bytes(budget, accelerators.get(own.device).memory_bytes)
    planner = planning.budgeted(strategy, str(memory_bytes))
    shared = msgspec.structs.replace(own, parallel=parallel)
    if count is None:
        count = simulated_plan.smallest_cluster(shared, memory_bytes)
    found = simulated_plan.best_plan(simulated_plan.on_ranks(shared, count), planner, memory_bytes)
    return {
        "workload": workload,
        "device": own.device,
        "memory_bytes": memory_bytes,
        "smallest": ranks == AUTO,
        **described(found),
    }


def check_simulated(cell: Cell) -> None:
    """Refuse a cluster of devices that are here.

    Raises:
        ValueError: they are.
    """
    if not cell.simulated:
        raise ValueError(f"clusters are planned for simulated devices, not for {cell.device}")


def rank_bytes(budget: str, device_bytes: int) -> int:
    """A rank's memory.

    Args:
        budget: as text; empty: all of the device.
        device_bytes: of the device.

    Raises:
        ValueError: a share, or more than the device has.
    """
    from strategies.schedules import budget as budgets

    given = budgets.parse(budget) if budget else device_bytes
    if isinstance(given, float) or given > device_bytes:
        raise ValueError(
            f"a rank's budget is in bytes, such as 40GB, at most {device_bytes:,}; not {budget}"
        )
    return given


def counted(ranks: str) -> int | None:
    """A number of ranks; ``None`` for ``auto``.

    Raises:
        ValueError: neither.
    """
    if ranks == AUTO:
        return None
    if not ranks.isdecimal() or not 2 <= int(ranks) <= 2**20:
        raise ValueError(f"--ranks takes a number of at least 2, or auto, not {ranks!r}")
    return int(ranks)


def described(plan: RankPlan) -> dict[str, Any]:
    """The plan as plain data."""
    reserved_bytes = plan.fit.steady_reserved_bytes
    assert reserved_bytes is not None
    return {
        "ranks": plan.ranks,
        "parallel": plan.parallel,
        "plan": plan.plan,
        "reserved_bytes": reserved_bytes,
        "none_reserved_bytes": plan.none_reserved_bytes,
        "peak_by_category": plan.by_category,
        "modelled_step_s": plan.step_s,
        "step_ratio": plan.step_s / plan.none_step_s,
        "exposed_fraction": plan.exposed_s / plan.step_s,
        "communication_bytes": plan.communication_bytes,
    }


def sentences(facts: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    yield facts["plan"]
    smallest = "the smallest cluster that trains it is " if facts["smallest"] else ""
    yield (
        f"{facts['workload']}: {smallest}{facts['ranks']} × {facts['device']}, {facts['parallel']};"
        f" each rank reserves {_gb(facts['reserved_bytes'])} of {_gb(facts['memory_bytes'])}"
        f" (modelled), without checkpointing {_gb(facts['none_reserved_bytes'])}."
    )
    largest = sorted(facts["peak_by_category"].items(), key=lambda item: -item[1])
    yield "At a rank's peak: " + ", ".join(f"{name} {_gb(size)}" for name, size in largest) + "."
    sent = facts["communication_bytes"].items()
    yield (
        f"A step takes {facts['modelled_step_s']:.2f} s (modelled), {facts['step_ratio']:.3f}× that"
        f" without checkpointing, {facts['exposed_fraction']:.1%} of it waiting for other ranks;"
        f" {', '.join(f'{kind} {_gb(size)}' for kind, size in sent)}."
    )


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.1f} GB"
