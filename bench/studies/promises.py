"""Is the peak of a real training loop within the budget that was promised for it?

Ten budgets, from the smallest that `auto` finds a schedule for to what the step needs without
checkpoints, each promised to the loop that people write: it holds the model's output, its AdamW
updates everything, and it may add up the gradients of two batches before that. The peak is of all
of it, by the allocator's own events, from before the first update. Runs in this process;
`bench.run.executor` gives it one of its own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import time
from collections.abc import Iterator
from importlib.util import find_spec

import msgspec
import torch

import strategies
from bench import devices
from bench.cells import machine
from bench.run import planning
from bench.store.promises import SCHEMA_VERSION, Loop, Promise, Study, encode
from bench.studies import subjects
from bench.studies.models import call
from strategies.contract.budgeted import Budgeted
from strategies.execution.tensors import tensors_in
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.ledger import unique_bytes
from strategies.profiling.step import ExampleStep
from strategies.schedules import plan as plans
from strategies.schedules.budget import Answer
from strategies.schedules.interpreter import predict

BUDGETS = 10
UPDATES = 5
BATCHES = 2
"""Before an update, where gradients are added up."""
STRATEGY = "auto"
RATE = 1e-4


class Question(msgspec.Struct, frozen=True):
    """What to study."""

    model: str
    device: str = "cpu"
    budgets: int = BUDGETS
    seed: int = 0


def work(payload: bytes) -> bytes:
    """The study that a question asks for, both as JSON."""
    return encode(study(msgspec.json.decode(payload, type=Question)))


def study(question: Question) -> Study:
    """Study one model; that it cannot be planned for is an answer.

    Raises:
        ValueError: there is no such model.
    """
    started, empty = time.perf_counter(), blank(question)
    try:
        loops = [Bench(question, accumulation=kind).loop() for kind in (False, True)]
    except strategies.Unsupported as error:
        return msgspec.structs.replace(empty, problem=str(error))
    duration_s = round(time.perf_counter() - started, 3)
    return msgspec.structs.replace(empty, loops=loops, duration_s=duration_s)


def blank(question: Question, problem: str = "") -> Study:
    """A study of which nothing is known, but for what ended it."""
    library = subjects.library_of(question.model)
    return Study(
        **machine.provenance(SCHEMA_VERSION, question.seed),
        model=question.model,
        library=library,
        library_version=importlib.metadata.version(library) if find_spec(library) else None,
        device=question.device,
        device_name=devices.describe(torch.device(question.device)),
        strategy=STRATEGY,
        optimizer="adamw",
        updates=UPDATES,
        problem=problem,
    )


class Bench:
    """One model and one kind of loop.

    Attributes:
        subject: the model, what it is called with, and the loss; on its device.
    """

    def __init__(self, question: Question, *, accumulation: bool) -> None:
        self.question, self.accumulation = question, accumulation
        self.device = torch.device(question.device)
        self.subject = subjects.build(question.model, question.seed).to(self.device)

    def loop(self) -> Loop:
        """Every budget, promised and measured."""
        chain = strategies.profiled(self.subject.model, STRATEGY, self.step())
        profile = chain.profile
        assert profile is not None
        plain_bytes = predict(profile, plans.plain(len(profile.blocks))).peak_bytes
        smallest_bytes = _auto(plain_bytes).smallest_bytes(profile)
        budgets = planning.budgets_between(smallest_bytes, plain_bytes, self.question.budgets)
        return Loop(
            accumulation=self.accumulation,
            plain_peak_bytes=plain_bytes,
            smallest_bytes=smallest_bytes,
            promises=[self._promise(budget_bytes, chain) for budget_bytes in budgets],
        )

    def step(self) -> ExampleStep:
        """One step of the loop, as those who plan it see it."""
        model, optimizer = self.subject.model, self._optimizer()
        return ExampleStep(
            model, self.subject.batch, self.subject.loss, optimizer, self.accumulation
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.subject.model.parameters(), lr=RATE)

    def _promise(self, budget_bytes: int, chain: strategies.Chain) -> Promise:
        assert chain.profile is not None
        solution = _auto(budget_bytes).solution(chain.profile, budget_bytes)
        assert solution is not None, budget_bytes
        answer = Answer.of(chain.profile, budget_bytes, solution)
        with strategies.apply(self.subject.model, _auto(budget_bytes), chain=chain) as applied:
            return Promise(
                budget_bytes=budget_bytes,
                plan=applied.schedule.render(),
                predicted_peak_bytes=answer.prediction.peak_bytes,
                peak_allocated_bytes=self.peak_bytes(),
                gap_fraction=answer.gap_fraction,
            )

    def peak_bytes(self, updates: int = UPDATES) -> int:
        """Most allocated in so many updates from an optimizer without state, by the allocator."""
        model, batch = self.subject.model, self.subject.batch
        optimizer = self._optimizer()
        model.zero_grad(set_to_none=True)
        gc.collect()
        targets = [one for one in self.subject.targets if one.device.type == self.device.type]
        resident = [*model.parameters(), *model.buffers(), *tensors_in(batch), *targets]
        with _most_allocated(unique_bytes(resident), self.device) as peak_bytes:
            del resident
            self._train(optimizer, updates)
        model.zero_grad(set_to_none=True)
        return peak_bytes[0]

    def _train(self, optimizer: torch.optim.Optimizer, updates: int) -> None:
        """The loop, as people write it."""
        for _ in range(updates):
            for _ in range(BATCHES if self.accumulation else 1):
                out = call(self.subject.model, self.subject.batch)
                self.subject.loss(out).backward()
            optimizer.step()
            optimizer.zero_grad()


def _auto(budget_bytes: int) -> Budgeted:
    return planning.budgeted(STRATEGY, str(budget_bytes))


@contextlib.contextmanager
def _most_allocated(resident_bytes: int, device: torch.device) -> Iterator[list[int]]:
    """Into the list goes the most that was allocated at once, what is resident included."""
    peak_bytes: list[int] = []
    if device.type == "cpu":
        with AllocatorTrace() as trace:
            trace.mark("begin")
            yield peak_bytes
            trace.mark("end")
        peak_bytes.append(resident_bytes + trace.working_bytes("begin", "end"))
        return
    memory = torch.accelerator.memory
    memory.empty_cache()
    torch.accelerator.synchronize()
    memory.reset_peak_memory_stats()
    before_bytes = memory.memory_allocated()  # libraries' workspaces are no part of a budget
    yield peak_bytes
    torch.accelerator.synchronize()
    peak_bytes.append(resident_bytes + memory.max_memory_allocated() - before_bytes)
