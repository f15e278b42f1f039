"""``advise``: what to do about a model on a device, found out in processes of their own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import psutil
import torch
from torch import nn

from bench.advise import findings as finding
from bench.advise.advice import Advice
from bench.advise.candidates import NONE, SPECS, fastest, line
from bench.advise.facts import Candidate, Largest, Setting
from bench.advise.findings import Findings, Question, base_of
from bench.cells.cell import Cell, checked
from bench.devices import accelerators
from bench.run import executor, server
from bench.run.blank import device_name
from bench.run.endings import Ending
from bench.run.here import measure_here
from bench.simulate.fit import STEP
from bench.store.records import Record
from bench.workloads import live
from bench.workloads.base import Batch, Workload
from bench.workloads.live import LiveWorkload, Loss
from bench.workloads.sources import SourceWorkload
from strategies.contract.budgeted import Budgeted
from strategies.contract.registry import get
from strategies.schedules import budget as budgets

DEVICE = "sim:h100-80gb"
OPTIMIZER = "adamw"
ROUNDS = 6
"""Of a measured candidate; each is one of several."""
TIMEOUT_S = 600.0
SIZED = "every_layer"
"""What sizes are searched with besides: what model libraries do when they are told to save."""

Ask = Callable[[executor.Work, Question], bytes]


def advise(
    model: nn.Module | str | Workload,
    batch: Batch = None,
    *,
    device: str = DEVICE,
    budget: str | None = None,
    loss: Loss | None = None,
    blocks: Sequence[str] | str | None = None,
    optimizer: str = OPTIMIZER,
    precision: str = "fp32",
    strategies: Sequence[str] = SPECS,
    rounds: int = ROUNDS,
    sizes: bool = True,
    **options: Any,
) -> Advice:
    """What to do about a model that is to be trained on a device.

    Args:
        model: a module, of which a copy is looked at; or the name of a workload; or a workload.
        batch: what a module is called with: a tensor, a sequence of arguments, or a mapping; of a
            workload, how many rows.
        device: a modelled one, ``sim:h100-80gb``; or one that is here: candidates are then
            measured, the rest is modelled all the same.
        budget: less than the device's memory: ``8GB``, ``8GiB``, bytes, or ``50%`` of what the step
            needs as it is.
        loss: of a module's output; default: its ``.loss``, or else a mean of squares.
        blocks: dotted paths of a module's containers of blocks, if they are not to be found.
        optimizer: see `bench.cells.optimizers.OPTIMIZERS`.
        precision: see `bench.cells.training.PRECISIONS`.
        strategies: to try, besides a plan within the room.
        rounds: timed rounds of each candidate on a device that is here; 0: none.
        sizes: whether to search for the largest batch and sequence.
        options: of a workload.

    Returns:
        Advice, which prints as text and shows itself in a notebook.

    Raises:
        ValueError: anything of it is unknown or impossible; or the model cannot be looked at.
    """
    with subject(model, batch, loss, blocks, options) as workload:
        cell = checked(
            Cell(
                workload=workload.name,
                options=workload.options(),
                spec=NONE,
                device=device,
                optimizer=optimizer,
                precision=precision,
                rounds=rounds,
            )
        )
        specs = tuple(dict.fromkeys(get(spec).spec() for spec in strategies))
        return _Adviser(cell, workload).advice(budget, specs, sizes=sizes)


@contextlib.contextmanager
def subject(
    model: nn.Module | str | Workload,
    batch: Batch = None,
    loss: Loss | None = None,
    blocks: Sequence[str] | str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Workload]:
    """The workload that a model is, with some options, known by its name within.

    Of a workload a batch is a number of rows.

    Raises:
        ValueError: a name or an option that nothing has, or what goes with a module and no module.
    """
    from bench import workloads  # noqa: PLC0415 - the package's name is that of an argument here

    given = dict(options or {})
    if isinstance(model, nn.Module):
        workload: Workload = LiveWorkload.of(model, batch, loss, blocks)
    else:
        workload = workloads.get(model) if isinstance(model, str) else model
        if type(batch) is int:
            given, batch = {**given, "batch": batch}, None
        if (batch, loss, blocks) != (None, None, None):
            raise ValueError("batch, loss and blocks go with a module; a workload has its own")
    workload = workload.with_options(**given)
    with contextlib.nullcontext() if _is_registered(workload) else live.named(workload):
        yield workload


def _is_registered(workload: Workload) -> bool:
    from bench import workloads  # noqa: PLC0415 - as above

    try:
        return workloads.get(workload.name, **workload.options()) == workload
    except ValueError:
        return False


class _Adviser:
    """One step and whom to ask about it."""

    def __init__(self, cell: Cell, workload: Workload) -> None:
        self.cell, self.workload = cell, workload
        self.here = live.known(cell.workload) is not None

    def advice(self, budget: str | None, specs: Sequence[str], *, sizes: bool) -> Advice:
        """All of it; what does not wait for another answer is asked at the same time."""
        room_bytes, room = self.room(budget)
        question = Question(cell=self.cell, room_bytes=room_bytes, specs=tuple(specs))
        axes = self.axes() if sizes else ()
        with concurrent.futures.ThreadPoolExecutor(1 if self.here else os.cpu_count()) as pool:

            def largest(*specs: str) -> concurrent.futures.Future[list[Largest]]:
                about = msgspec.structs.replace(question, specs=specs, axes=axes)
                return pool.submit(lambda: _sizes(self.ask(finding.size, about)))

            answer = pool.submit(self.findings, question)
            asked = [largest(NONE, SIZED)] if axes else []  # while candidates are looked at
            found = answer.result()
            rule = _rule(found.candidates) if axes else []
            asked += [largest(spec) for spec in rule]
            searched = [one for future in asked for one in future.result()]
        return self.put_together(found, self.setting(room_bytes, room), searched)

    def room(self, budget: str | None) -> tuple[int, str]:
        """Bytes that the step may take, and what that is."""
        memory_bytes = memory_bytes_of(self.cell)
        if budget is None:
            return memory_bytes, "the device's memory"
        value = budgets.parse(budget)
        if isinstance(value, float):
            value = int(value * self.plain_bytes())
        return min(value, memory_bytes), f"a budget of {budget}"

    def plain_bytes(self) -> int:
        """What the step takes as it is."""
        question = Question(cell=self.cell, room_bytes=memory_bytes_of(self.cell))
        return int(self.ask(finding.plain_bytes, question))

    def findings(self, question: Question) -> Findings:
        """Candidates, measured where the device is here; the peak; remedies."""
        if self.cell.simulated:
            return _findings(self.ask(finding.find, question))
        from bench.advise.measured import measured  # noqa: PLC0415 - tables take long to import

        found = tuple(measured(self.measure, question.specs, question.room_bytes))
        question = msgspec.structs.replace(question, specs=(), base=base_of(found))
        modelled = _findings(self.ask(finding.find, question))
        return msgspec.structs.replace(modelled, candidates=found)

    def measure(self, spec: str) -> Record:
        """A candidate's record."""
        cell = checked(msgspec.structs.replace(self.cell, spec=spec))
        return measure_here(cell) if self.here else executor.run(cell, TIMEOUT_S)

    def ask(self, work: executor.Work, question: Question) -> bytes:
        """The answer; of a model that is in this process, found out here.

        Raises:
            ValueError: there is none, and why.
        """
        payload = msgspec.json.encode(question)
        if self.here:
            return work(payload)
        answer = executor.in_process(
            work, payload, TIMEOUT_S, server.shared(finding.__name__, self.cell.workload)
        )
        if isinstance(answer, Ending):
            what = f"{self.cell.workload} cannot be looked at"
            raise ValueError(f"{what}: {answer.reason}")  # noqa: TRY004 - an answer
        return answer

    def axes(self) -> tuple[str, ...]:
        """Sizes that can be searched: of modelled devices."""
        options = self.workload.options() if self.cell.simulated else {}
        return tuple(axis for axis in STEP if isinstance(options.get(axis), int))

    def setting(self, room_bytes: int, room: str) -> Setting:
        """What the advice is for."""
        cell = self.cell
        return Setting(
            workload=cell.workload,
            options=cell.make_workload().options(),
            device=cell.device,
            product=device_name(cell),
            modelled=cell.simulated,
            precision=cell.precision,
            optimizer=cell.optimizer,
            room_bytes=room_bytes,
            room=room,
            torch_version=str(torch.__version__),
        )

    def put_together(
        self, found: Findings, setting: Setting, searched: Sequence[Largest]
    ) -> Advice:
        """The advice."""
        chosen = fastest(found.candidates)
        spec = chosen.spec if chosen else None
        # What a workload of this project is called with comes first in its batch; targets follow.
        example = "batch" if isinstance(self.workload, SourceWorkload) else "batch[0]"
        return Advice(
            setting=setting,
            candidates=found.candidates,
            chosen=spec,
            line=line(spec, example) if spec and spec != NONE else "",
            peak=found.peak,
            base=found.base,
            remedies=found.remedies,
            largest=tuple(searched),
        )


def memory_bytes_of(cell: Cell) -> int:
    """Of the cell's device: what is free where it is a CPU, all of it otherwise."""
    if cell.simulated:
        return accelerators.get(cell.device).memory_bytes
    if cell.device == "cpu":
        return int(psutil.virtual_memory().available)
    module = torch.get_device_module(cell.device)
    return int(module.get_device_properties(0).total_memory)


def _rule(candidates: Sequence[Candidate]) -> list[str]:
    """The chosen strategy, where sizes are to be searched with it, too.

    A plan within a budget is another one at every size, and none is that for which it was made.
    """
    chosen = fastest(candidates)
    if chosen is None or chosen.spec in {NONE, SIZED} or isinstance(get(chosen.spec), Budgeted):
        return []
    return [chosen.spec]


def _findings(answer: bytes) -> Findings:
    return msgspec.json.decode(answer, type=Findings)


def _sizes(answer: bytes) -> list[Largest]:
    return msgspec.json.decode(answer, type=list[Largest])
