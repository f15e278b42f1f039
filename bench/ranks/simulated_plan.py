"""The plan with which a cluster trains a model, and the smallest cluster that does.

FSDP2 shards what the model is, not what its blocks keep: on a rank a plan has the memory of the
device less what `none` holds there besides. So the chain is profiled as on one device, whose memory
is larger by what sharding saves, and every plan is simulated on a rank before it is believed.
"""

from __future__ import annotations

import dataclasses

import msgspec

import strategies
from bench.cells.cell import Cell, checked
from bench.devices import accelerators
from bench.ranks.divisible import unsized
from bench.ranks.parallel import Parallel, parse
from bench.ranks.simulated import trace_rank
from bench.ranks.simulated_record import exchange_of, fit_of, time_of
from bench.run.planning import profile_cell
from bench.simulate.fit import bisect
from bench.simulate.peak import peak_event
from bench.store.parts import Fit
from bench.workloads.base import SizedWorkload
from strategies.contract.budgeted import Budgeted
from strategies.execution.chain import Chain
from strategies.schedules.interpreter import predict
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule

TRIES = 4
"""Plans that are simulated until one fits."""
LEANEST = "every_layer"
"""The strategy that decides whether a cluster holds a model."""
LARGEST = 1024
"""Ranks of a cluster that is looked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(strategies.Strategy):
    """A schedule that was worked out before, as text."""

    text: str

    def schedule(self, chain: Chain) -> Schedule:
        """What was given."""
        del chain
        return Schedule.parse(self.text)


@dataclasses.dataclass(frozen=True)
class RankPlan:
    """What one rank of a cluster runs, and what that needs.

    Attributes:
        ranks: of the cluster.
        parallel: how they share the model.
        plan: as text; ``none`` keeps everything.
        fit: of a rank.
        none_reserved_bytes: that a rank without checkpointing would reserve.
        by_category: a rank's bytes at the peak.
        step_s: modelled.
        none_step_s: without checkpointing, whether it fits or not.
        exposed_s: of the step, waiting for other ranks.
        communication_bytes: by collective.
    """

    ranks: int
    parallel: str
    plan: str
    fit: Fit
    none_reserved_bytes: int
    by_category: dict[str, int]
    step_s: float
    none_step_s: float
    exposed_s: float
    communication_bytes: dict[str, int]


def best_plan(cell: Cell, planner: Budgeted, memory_bytes: int) -> RankPlan:
    """The fastest plan that fits a rank.

    Args:
        cell: checked, of several simulated ranks; its strategy is not looked at.
        planner: that solves.
        memory_bytes: of a rank's device.

    Raises:
        ValueError: nothing fits, or the ranks share more than parameters.
    """
    parallel = parse(cell.parallel, cell.ranks)
    if max(parallel.tensor, parallel.pipeline) > 1:
        raise ValueError(
            f"plans are made for ranks that share by fsdp2 or ddp alone, not {cell.parallel}"
        )
    none = _tried(cell, "none", memory_bytes)
    if none.fit.status == "ok":
        return none
    leanest = dataclasses.replace(
        _tried(cell, LEANEST, memory_bytes),
        none_reserved_bytes=_reserved(none),
        none_step_s=none.step_s,
    )
    if leanest.fit.status != "ok":
        raise ValueError(
            f"{cell.workload} on {cell.ranks} ranks of {cell.device}: no plan fits"
            f" {memory_bytes / 1e9:.1f} GB; a rank needs {_reserved(none) / 1e9:.1f} GB without"
            f" checkpointing, {_reserved(leanest) / 1e9:.1f} GB with every block recomputed"
        )
    profile = profile_cell(_alone(cell, parallel), strategy=planner)
    # A rank's time knows no link to the host: nothing is planned to rest there.
    profile = dataclasses.replace(profile, link_bytes_per_s=0.0)
    budget_bytes = memory_bytes + _saved_bytes(leanest, profile)
    for _ in range(TRIES):
        solution = planner.solution(profile, budget_bytes)
        if solution is None:
            break
        tried = _tried(cell, solution.schedule.render(), memory_bytes, none)
        if tried.fit.status == "ok":
            return min(tried, leanest, key=lambda plan: plan.step_s)
        budget_bytes -= max(1, _reserved(tried) - memory_bytes)
    return leanest


def smallest_cluster(cell: Cell, memory_bytes: int) -> int:
    """The fewest ranks, a power of two, that hold the model with every block recomputed.

    Args:
        cell: see `best_plan`; its batch is each rank's own.
        memory_bytes: of a rank's device.

    Raises:
        ValueError: not even the largest holds it.
    """
    exponents = LARGEST.bit_length() - 1
    if parse(cell.parallel, LARGEST).pipeline > 1:
        raise ValueError("the smallest cluster is looked for without pipelines; name one's ranks")

    def fits(number: int) -> bool:
        """From the largest cluster down, so that what fits comes first."""
        probe = on_ranks(cell, LARGEST >> (number - 1))
        return _tried(probe, LEANEST, memory_bytes).fit.status == "ok"

    fitting = bisect(fits, exponents)
    if not fitting:
        raise ValueError(
            f"{cell.workload} does not fit {LARGEST} ranks of {cell.device}, even with every block"
            " recomputed"
        )
    return LARGEST >> (fitting - 1)


def on_ranks(cell: Cell, ranks: int) -> Cell:
    """The cell on so many ranks, each with the batch that the cell has."""
    parallel = parse(cell.parallel, ranks)
    batch = _batch_of(cell) * parallel.replicas
    options = {**cell.options, "batch": batch}
    return checked(msgspec.structs.replace(cell, ranks=ranks, options=options))


def _batch_of(cell: Cell) -> int:
    """Of all ranks.

    Raises:
        ValueError: the workload's batch cannot be shared.
    """
    workload = cell.make_workload()
    if isinstance(workload, SizedWorkload):
        return workload.batch
    raise ValueError(unsized(workload))


def _alone(cell: Cell, parallel: Parallel) -> Cell:
    """The cell on one device: what gathers weights in bf16 runs in it."""
    batch = _batch_of(cell) // parallel.replicas
    precision = "bf16" if parallel.mixed else cell.precision
    options = {**cell.options, "batch": batch}
    return msgspec.structs.replace(cell, ranks=1, parallel="", precision=precision, options=options)


def _saved_bytes(leanest: RankPlan, profile: ChainProfile) -> int:
    """How much larger one device would have to be, whose allocator wastes nothing.

    With every block recomputed: the peak is in backward then, as that of all plans that matter,
    where FSDP2 has gathered most.
    """
    plan = tuple((index,) for index in range(len(profile.blocks)))
    return predict(profile, plan).peak_bytes - _reserved(leanest)


def _reserved(plan: RankPlan) -> int:
    """In bytes, without a limit."""
    assert plan.fit.steady_reserved_bytes is not None
    return plan.fit.steady_reserved_bytes


def _tried(cell: Cell, plan: str, memory_bytes: int, none: RankPlan | None = None) -> RankPlan:
    """A strategy's name, or a schedule, simulated."""
    strategy = Given(text=plan) if none else strategies.get(plan)
    device = dataclasses.replace(accelerators.get(cell.device), memory_bytes=memory_bytes)
    rank = trace_rank(cell, strategy=strategy)
    recorded = rank.simulation.trace
    fit, times = fit_of(rank, device), time_of(rank, device)
    assert fit.steady_reserved_bytes is not None
    return RankPlan(
        ranks=cell.ranks,
        parallel=cell.parallel,
        plan=plan,
        fit=fit,
        none_reserved_bytes=_reserved(none) if none else fit.steady_reserved_bytes,
        by_category=recorded.by_category(peak_event(recorded)),
        step_s=times.step_s,
        none_step_s=none.step_s if none else times.step_s,
        exposed_s=times.exposed_s,
        communication_bytes=exchange_of(rank).communication_bytes,
    )
