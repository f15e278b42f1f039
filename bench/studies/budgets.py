"""The budget study of one workload: is a budget kept, what does it cost, and can a rule do better?

Ten budgets, from the smallest that any plan fits into to what a step without checkpoints needs.
For each the plan of `optimal`, made from measured block times; against it every plan that a rule
gives. Peaks by the allocator, gradients against `none`, and steps of all contenders interleaved in
the same rounds. Runs in this process; `bench.run.executor` gives it one of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator

import msgspec
import torch

import strategies
from bench.cells import machine
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.measure import gradients, memory
from bench.measure.time import Switch, interleave
from bench.run import culprit, planning
from bench.run.blank import device_name
from bench.run.block_times import ROUNDS as PROFILE_ROUNDS
from bench.store.budgets import SCHEMA_VERSION, BlockTimes, Budget, Contender, Study, encode
from strategies.execution.undo import installed
from strategies.profiling.ledger import unique_bytes
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.schedule import ALL, Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import optimal

BUDGETS = 10
AGAIN = "none again"


def work(payload: bytes) -> bytes:
    """The study of a cell, both as JSON."""
    cell = msgspec.json.decode(payload, type=Cell)
    with culprit.named(cell):
        return encode(study(cell))


def study(cell: Cell) -> Study:
    """Study one workload.

    Args:
        cell: checked; of a real device. Its strategy is of no interest.

    Raises:
        strategies.Unsupported: the model is no chain.
    """
    provenance = machine.provenance(SCHEMA_VERSION, cell.seed)
    started = time.perf_counter()
    torch.set_num_threads(cell.threads)
    step = planning.build_step(cell)
    none = strategies.prepare(step.model, "none", blocks=step.workload.blocks)
    profile = planning.profile_step(step, none.chain)
    solved = dict(solutions(profile))
    entrants = contenders(none, [solution.schedule for solution in solved.values()])
    measured, again_s = _Bench(cell, step, none, profile).measured(entrants)
    return Study(
        **provenance | {"duration_s": round(time.perf_counter() - started, 3)},
        workload=step.workload.name,
        workload_options=step.workload.options(),
        device=cell.device,
        device_name=device_name(cell),
        precision=cell.precision,
        optimizer=cell.optimizer,
        blocks=[_block_times(block) for block in profile.blocks],
        fixed_s=profile.fixed_s,
        contenders=measured,
        budgets=[
            _budget(budget_bytes, solution, list(entrants).index(solution.schedule), profile)
            for budget_bytes, solution in solved.items()
        ],
        none_again_step_s=again_s,
        profile_rounds=PROFILE_ROUNDS,
        rounds=cell.rounds,
        warmup=cell.warmup,
        threads=cell.threads,
    )


def solutions(profile: ChainProfile, count: int = BUDGETS) -> Iterator[tuple[int, Solution]]:
    """Budgets in bytes, from the smallest that can be kept to `none`'s peak, each with its plan."""
    none = predict(profile, plans.plain(len(profile.blocks)))
    low_bytes = optimal.smallest_bytes(profile)
    for budget_bytes in planning.budgets_between(low_bytes, none.peak_bytes, count):
        solution = optimal.solve(profile, budget_bytes)
        assert solution is not None, budget_bytes
        yield budget_bytes, solution


def heuristics(count: int) -> list[str]:
    """The rules that need no profile, as specifications; `none` first."""
    return [
        "none",
        "every_layer",
        *(f"every_k(k={k})" for k in range(2, count + 1)),
        "sqrt",
        "recursive",
    ]


def contenders(none: strategies.Prepared, optimal: list[Schedule]) -> dict[Schedule, list[str]]:
    """Distinct schedules, `none` first, each with the rules that give it; optimal ones last."""
    rules: dict[Schedule, list[str]] = {}
    for spec in heuristics(len(none.chain)):
        schedule = strategies.prepare(none.model, spec, chain=none.chain).schedule
        rules.setdefault(schedule, []).append(spec)
    for schedule in optimal:
        rules.setdefault(schedule, [])
    return rules


def _block_times(block: BlockCost) -> BlockTimes:
    return BlockTimes(
        forward_s=block.forward_s,
        backward_s=block.backward_s,
        last_recompute_s=block.last_recompute_s,
        mode_recompute_s={m.name: m.recompute_s for m in block.modes if m.name != ALL},
    )


def _budget(budget_bytes: int, solution: Solution, contender: int, profile: ChainProfile) -> Budget:
    return Budget(
        budget_bytes=budget_bytes,
        contender=contender,
        bound_step_s=profile.plain_step_s + solution.bound_s,
        slot_bytes=solution.slot_bytes,
    )


@dataclasses.dataclass
class _Bench:
    """The workload's model on the bench."""

    cell: Cell
    step: TrainingStep
    none: strategies.Prepared
    profile: ChainProfile

    def measured(self, entrants: dict[Schedule, list[str]]) -> tuple[list[Contender], list[float]]:
        """Gradients of all schedules, then memory, then time: an optimizer changes the weights.

        Returns:
            The contenders, and steps of the first, which is `none`, as one contender more.
        """
        equal = self._gradients(list(entrants))
        rows = [
            self._contender(schedule, specs, grads_bitwise_equal=equal[schedule])
            for schedule, specs in entrants.items()
        ]
        schedules = {schedule.render(): schedule for schedule in entrants}
        seconds = self._seconds(schedules | {AGAIN: next(iter(entrants))})
        timed = [msgspec.structs.replace(one, step_s=seconds[one.plan]) for one in rows]
        return timed, seconds[AGAIN]

    def _gradients(self, schedules: list[Schedule]) -> dict[Schedule, bool]:
        """Whether loss, gradients, buffers and random state are those of the model as it is."""
        reference = gradients.run(self.step, self.cell.seed)
        equal = {}
        for schedule in schedules:
            with self._under(schedule):
                outcome = gradients.run(self.step, self.cell.seed)
            equal[schedule] = gradients.compare(reference, outcome).problem(exact=True) is None
        return equal

    def _contender(
        self, schedule: Schedule, specs: list[str], *, grads_bitwise_equal: bool
    ) -> Contender:
        """What is predicted of a schedule, and its peak by the allocator."""
        prediction = predict(self.profile, schedule)
        self.step.drop_gradients()
        resident_bytes = unique_bytes(self.step.resident_tensors())
        with self._under(schedule):
            peak_bytes = resident_bytes + memory.step_memory(self.step).peak_bytes
        return Contender(
            plan=schedule.render(),
            heuristics=specs,
            predicted_peak_bytes=prediction.peak_bytes,
            predicted_step_s=prediction.step_s,
            peak_allocated_bytes=peak_bytes,
            grads_bitwise_equal=grads_bitwise_equal,
        )

    def _seconds(self, schedules: dict[str, Schedule]) -> dict[str, list[float]]:
        """Raw seconds of each, in each round."""
        switches = {name: self._switch(schedule) for name, schedule in schedules.items()}
        gc.collect()
        interleave(switches, self.cell.warmup, self.step.device)
        return interleave(switches, self.cell.rounds, self.step.device)

    def _under(self, schedule: Schedule) -> contextlib.AbstractContextManager[None]:
        return installed(dataclasses.replace(self.none, schedule=schedule).install)

    def _switch(self, schedule: Schedule) -> Switch:
        @contextlib.contextmanager
        def switch() -> Iterator[Callable[[], None]]:
            with self._under(schedule):
                yield self.step

        return switch
