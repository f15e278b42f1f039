"""Steps of peers and of our own strategies, interleaved in the same rounds of one process.

What a contender needs, and whether its gradients are right, was measured before, in a process of
its own each, by the harness of all cells. Runs in this process; `bench.run.executor` gives it one.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
import torch

import strategies
from bench.cells import machine
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.measure import generators
from bench.measure.time import Switch, interleave
from bench.run.blank import device_name
from bench.store.peers import SCHEMA_VERSION, Run, Timed, encode

AGAIN = "none again"
"""`none` as one contender more: how far two equal ones are apart in this run."""


Contender = tuple[TrainingStep, strategies.Prepared]


class Asked(msgspec.Struct, frozen=True):
    """What to time: specifications, `none` first, on the cell's workload."""

    cell: Cell
    specs: list[str]


def work(payload: bytes) -> bytes:
    """The run that was asked for, both as JSON."""
    asked = msgspec.json.decode(payload, type=Asked)
    return encode(run(asked.cell, asked.specs))


def run(cell: Cell, specs: Sequence[str]) -> Run:
    """Time steps under each specification.

    Args:
        cell: checked; of a real device. Its strategy is of no interest.
        specs: `none` first. One that cannot be applied is left out, with its reason.
    """
    provenance = machine.provenance(SCHEMA_VERSION, cell.seed)
    started = time.perf_counter()
    torch.set_num_threads(cell.threads)
    workload = cell.make_workload()
    contenders, untimed = _contenders(cell, specs)
    seconds = _seconds(cell, contenders)
    return Run(
        **provenance | {"duration_s": round(time.perf_counter() - started, 3)},
        workload=workload.name,
        workload_options=workload.options(),
        device=cell.device,
        device_name=device_name(cell),
        precision=cell.precision,
        optimizer=cell.optimizer,
        timed=[Timed(spec=spec, step_s=seconds[spec]) for spec in contenders],
        none_again_step_s=seconds[AGAIN],
        untimed=untimed,
        rounds=cell.rounds,
        warmup=cell.warmup,
        threads=cell.threads,
    )


def _contenders(cell: Cell, specs: Sequence[str]) -> tuple[dict[str, Contender], dict[str, str]]:
    """What each specification does to the model, and why some cannot do it.

    One model serves all that run it as it is. What is compiled has a model of its own: to change
    the model's attributes in between would have it compiled anew in every round.
    """
    shared, contenders, untimed = _step(cell), dict[str, Contender](), dict[str, str]()
    for spec in dict.fromkeys(specs):
        step = _step(cell) if strategies.get(spec).compiled else shared
        generators.seed_all(cell.seed)
        try:
            one = strategies.prepare(step.model, spec, step=step, blocks=step.workload.blocks)
        except strategies.Unsupported as error:
            untimed[spec] = str(error)
        else:
            contenders[spec] = (step, one)
    return contenders, untimed


def _step(cell: Cell) -> TrainingStep:
    """The cell's step, once run: the optimizer's state exists from then."""
    device = torch.device(cell.device)
    step = TrainingStep.build(cell.make_workload(), device, cell.precision, cell.optimizer)
    step()
    return step


def _seconds(cell: Cell, contenders: dict[str, Contender]) -> dict[str, list[float]]:
    """Raw seconds of each, in each round."""
    switches = {spec: _switch(*contender) for spec, contender in contenders.items()}
    switches[AGAIN] = _switch(*next(iter(contenders.values())))
    device = torch.device(cell.device)
    gc.collect()
    interleave(switches, cell.warmup, device)
    return interleave(switches, cell.rounds, device)


def _switch(step: TrainingStep, prepared: strategies.Prepared) -> Switch:
    @contextlib.contextmanager
    def switch() -> Iterator[Callable[[], None]]:
        with prepared.apply():
            yield step

    return switch
