"""Measures what the solvers of `optimal` and `milp` cost, against the number of blocks."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from bench.cells import machine
from bench.store.solvers import SCHEMA_VERSION, Study, Timing
from bench.studies import synthetic
from strategies.schedules.budget import Answer
from strategies.schedules.interpreter import predict
from strategies.schedules.plan import plain
from strategies.schedules.profile import ChainProfile
from strategies.schedules.solution import Solution
from strategies.solvers import milp, optimal, optimal_numbers, optimal_table

MOST_REPEATS, FEWEST_REPEATS = 5, 3
ENOUGH_S = 30.0  # after this only the fewest repeats are made
BUDGET_FRACTION = 0.5
SLOTS = 500


class Case(NamedTuple):
    """What to time: a solver, a length, and slots (0: the default)."""

    solver: Literal["optimal", "milp"]
    blocks: int
    slots: int = 0


CASES = (
    *(Case("optimal", blocks, SLOTS) for blocks in (4, 8, 16, 32, 64, 96)),
    *(Case("optimal", blocks) for blocks in (4, 8, 16, 32, 64, 96, 128, 250, 500, 1000)),
    *(Case("milp", blocks) for blocks in (4, 6, 8, 10, 12)),
)


def study(
    most_blocks: int = 1000, seed: int = 0, progress: Callable[[Timing], None] = lambda _: None
) -> Study:
    """Time every case of at most so many blocks.

    Args:
        most_blocks: of the longest chain.
        seed: of the chains.
        progress: told of each case as it is done.

    Raises:
        ValueError: no case is that short.
    """
    cases = [case for case in CASES if case.blocks <= most_blocks]
    if not cases:
        raise ValueError(f"the shortest chain has {min(c.blocks for c in CASES)} blocks")
    provenance = machine.provenance(SCHEMA_VERSION, seed)  # before sources can change under a run
    started = time.perf_counter()
    compile_s = compile_time_s()
    timings = list(_timed(cases, seed, progress))
    return Study(
        **provenance | {"duration_s": time.perf_counter() - started},
        modes=synthetic.MODES,
        budget_fraction=BUDGET_FRACTION,
        timings=timings,
        compile_s=compile_s,
        numba_version=importlib.metadata.version("numba"),
        highspy_version=importlib.metadata.version("highspy"),
    )


def _timed(
    cases: Sequence[Case], seed: int, progress: Callable[[Timing], None]
) -> Iterator[Timing]:
    warm_up()
    for case in cases:
        timing = time_case(case, seed)
        progress(timing)
        yield timing


def warm_up() -> None:
    """Compile, or load what was compiled; and load the other solver."""
    profile = synthetic.chain(1)
    numbers = optimal_numbers.numbers_of(profile, 2**20)
    table = optimal_table.empty(1, len(numbers.firsts), 1)
    for dtype in ("float64", "float32"):  # of short and of long chains
        optimal_table.compiled()(table.astype(dtype), numbers)
    _solve(Case("milp", 1), profile, 2**30)


def compile_time_s() -> float:
    """Seconds to compile the table, in a process that finds nothing compiled."""
    code = (
        "import time; from bench.studies import solvers as s; t = time.perf_counter(); s.warm_up();"
        "u = time.perf_counter(); s.warm_up(); print(2 * u - t - time.perf_counter())"
    )
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-c", code],
            cwd=machine.ROOT,
            env={**os.environ, "NUMBA_CACHE_DIR": folder},
            capture_output=True,
            text=True,
            check=True,
        )
    return float(process.stdout)


def time_case(case: Case, seed: int = 0) -> Timing:
    """Solve one case several times, each time anew."""
    profile = synthetic.chain(case.blocks, seed)
    budget_bytes = int(BUDGET_FRACTION * predict(profile, plain(case.blocks)).peak_bytes)
    seconds: list[float] = []
    while len(seconds) < (FEWEST_REPEATS if sum(seconds) > ENOUGH_S else MOST_REPEATS):
        started = time.perf_counter()
        solution = _solve(case, profile, budget_bytes)
        seconds.append(time.perf_counter() - started)
    default = case.solver == "optimal" and not case.slots
    return Timing(
        solver=case.solver,
        blocks=case.blocks,
        slots=None if case.solver == "milp" else case.slots or optimal.slots_for(profile),
        default_slots=default,
        solve_s=seconds,
        gap_fraction=_gap_fraction(profile, budget_bytes, solution),
    )


def _gap_fraction(
    profile: ChainProfile, budget_bytes: int, solution: Solution | None
) -> float | None:
    return None if solution is None else Answer.of(profile, budget_bytes, solution).gap_fraction


def _solve(case: Case, profile: ChainProfile, budget_bytes: int) -> Solution | None:
    """What the solver does behind its cache, which would answer a repeat from memory."""
    if case.solver == "milp":
        return milp.solve.__wrapped__(profile, budget_bytes)
    return optimal.solve.__wrapped__(profile, budget_bytes, case.slots)
