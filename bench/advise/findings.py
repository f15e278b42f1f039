"""What is found out about a step in one process: candidates, the peak, remedies, sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import cast

import msgspec

from bench.advise.candidates import NONE, Modelled, fastest, leanest
from bench.advise.facts import Candidate, Largest, PeakOf, Remedy
from bench.advise.remedies import Base, remedies
from bench.advise.workbench import Workbench, peak_bytes_of
from bench.cells.cell import Cell
from bench.run import culprit
from bench.simulate.fit import Axis, largest
from bench.simulate.peak import describe_peak, peak_event
from bench.simulate.run import Simulation
from bench.simulate.steps import Steps
from bench.simulate.trace import Trace
from strategies import Unsupported

SAVED = "saved tensors"


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """About one step.

    Attributes:
        cell: checked, under no strategy.
        room_bytes: that the step may take.
        specs: strategies to try where the device is modelled; of sizes: those that they are of.
        base: that remedies are tried on; empty: the step as it is, or, where nothing fits, the
            strategy with the lowest peak.
        axes: of sizes.
    """

    cell: Cell
    room_bytes: int
    specs: tuple[str, ...] = ()
    base: str = ""
    axes: tuple[str, ...] = ()


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """Answers; see `bench.advise.facts.Facts`."""

    candidates: tuple[Candidate, ...]
    base: str
    peak: PeakOf
    remedies: tuple[Remedy, ...]


def find(payload: bytes) -> bytes:
    """The findings of a question, both as JSON."""
    question = msgspec.json.decode(payload, type=Question)
    with culprit.named(question.cell):
        return msgspec.json.encode(_found(question))


def _found(question: Question) -> Findings:
    bench = Workbench(question.cell, question.room_bytes)
    plain = bench.simulate(NONE)
    found: tuple[Candidate, ...] = ()
    if bench.device is not None:
        found = tuple(Modelled(bench, plain).candidates(question.specs))
    spec = question.base or base_of(found)
    base = Base(bench, spec, plain if spec == NONE else bench.simulate(spec))
    return Findings(candidates=found, base=spec, peak=peak_of(plain), remedies=remedies(base))


def base_of(candidates: tuple[Candidate, ...]) -> str:
    """What remedies are tried on: the step as it is, if any candidate fits."""
    return NONE if fastest(candidates) or not candidates else leanest(candidates).spec


def peak_of(simulation: Simulation) -> PeakOf:
    """Where the peak is, and what it is made of."""
    trace = simulation.trace
    made = describe_peak(trace, simulation.blocks)
    return PeakOf(
        size_bytes=peak_bytes_of(trace),
        phase=made.peak_phase,
        module=made.peak_module,
        operator=made.peak_operator,
        by_category=made.peak_by_category,
        saved_by_operator=saved_by_operator(trace, peak_event(trace)),
        floor_bytes=made.peak_floor_bytes,
        sentence=made.advice,
    )


def saved_by_operator(trace: Trace, event: int) -> Mapping[str, int]:
    """Bytes of the tensors that are saved at an event, by what made them; most first."""
    sizes: Counter[str] = Counter()
    for life in trace.lives:
        alive = life.born <= event and (life.died is None or life.died > event)
        if alive and life.category == SAVED:
            sizes[life.operator.partition(".")[0]] += life.size_bytes
    return dict(sizes.most_common())


def size(payload: bytes) -> bytes:
    """The largest sizes that fit, of a question; both as JSON."""
    question = msgspec.json.decode(payload, type=Question)
    steps = Steps()  # shared: to build one takes long
    with culprit.named(question.cell):
        found = [
            _largest(question, spec, axis, steps)
            for spec in question.specs
            for axis in question.axes
        ]
    return msgspec.json.encode(found)


def _largest(question: Question, spec: str, axis: str, steps: Steps) -> Largest:
    cell = msgspec.structs.replace(question.cell, spec=spec)
    now = cell.make_workload().options()[axis]
    try:
        fitting = largest(cell, cast("Axis", axis), question.room_bytes, steps)
    except Unsupported:
        fitting = None
    value = fitting.options.get(axis, now) if fitting else 0
    return Largest(axis=axis, spec=spec, now=now, value=value)


def plain_bytes(payload: bytes) -> bytes:
    """The peak of the step as it is, of a question as JSON; a number as text."""
    question = msgspec.json.decode(payload, type=Question)
    bench = Workbench(question.cell, question.room_bytes)
    with culprit.named(question.cell):
        return str(peak_bytes_of(bench.simulate(NONE).trace)).encode()
