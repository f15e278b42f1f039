"""The contenders of one model: prepared, their peaks measured, and timed in the same rounds.

`auto` settles as it does for its user, on steps of the example; every contender's peak is that of a
training loop with its updates, by the allocator; steps (forward and backward, for updates do not
differ) of all that are within a budget run interleaved.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
import torch
from torch import nn

import strategies
from bench.measure.surroundings import Watch
from bench.measure.time import Switch, interleave
from bench.report import bouts
from bench.run import planning, rounds
from bench.store.contests import NONE, Budget, Contender, Entry
from bench.studies import entrants, promises
from strategies.contract.settled import settled
from strategies.execution.errors import Unsupported
from strategies.profiling.step import preserved
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict

BUDGETS = 3
UPDATES = 2
"""Of the loop whose peak is measured: in the second the optimizer's state is there."""
WARMUP = 1
FRACTIONS = (1.0, 0.5)
CLOSE = 0.01
"""Budgets nearer than this part are one."""
AGAIN = "none again"


class Question(msgspec.Struct, frozen=True):
    """What to contest.

    Attributes:
        budgets: how many of the ten of a study of promises.
        compiled: `auto` with compiled blocks, against PyTorch's compiler under its own budgets.
        fractions: of that compiler.
        rounds: at least, an even number.
        interval_width: more follow until no interval of `auto` against another is wider.
        rounds_limit_s: seconds after which none follows.
    """

    model: str
    device: str = "cpu"
    budgets: int = BUDGETS
    accumulation: bool = False
    compiled: bool = False
    fractions: tuple[float, ...] = FRACTIONS
    rounds: int = 6
    interval_width: float | None = 0.02
    rounds_limit_s: float | None = 60.0
    seed: int = 0


class _Corner:
    """A model, and its training loop, that contenders are put on."""

    def __init__(self, question: Question) -> None:
        asked = promises.Question(question.model, question.device, seed=question.seed)
        self.bench = promises.Bench(asked, accumulation=question.accumulation)
        self.step = self.bench.step()

    def peak_bytes(self, prepared: strategies.Prepared) -> int:
        """Of the loop under a strategy; weights are then what they were."""
        with _unmoved(self.step.model), prepared.apply():
            if prepared.strategy.compiled or not prepared.strategy.exact:
                self.run()  # what compiling itself takes is none of the loop's
            return self.bench.peak_bytes(UPDATES)

    def run(self) -> None:
        """One step, from the gradients that the loop has there."""
        self.step.backward(self.step.forward())

    def switch(self, prepared: strategies.Prepared) -> Switch:
        """The step under a strategy, to be timed."""

        @contextlib.contextmanager
        def switch() -> Iterator[Callable[[], None]]:
            self.step.drop_gradients()
            with prepared.apply():
                yield self.run
            self.bench.subject.model.zero_grad(set_to_none=True)

        return switch


@contextlib.contextmanager
def _unmoved(model: nn.Module) -> Iterator[None]:
    """Afterwards weights, buffers and random states are what they were."""
    weights = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    with preserved(model):
        yield
    with torch.no_grad():
        for parameter, before in weights:
            parameter.copy_(before)


Entrant = tuple[_Corner, strategies.Prepared]


class Ring:
    """All contenders on one model.

    Attributes:
        entrants: of each entry, the model that it runs on, and what is done to it.
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        self.corner = _Corner(question)
        strategy = entrants.ours(1, compiled=question.compiled)
        self.chain = strategies.profiled(self.corner.step.model, strategy, self.corner.step)
        self.entrants: list[Entrant] = []
        self.entries: list[Entry] = []
        self._known: dict[str, Contender] = {}
        self._places: dict[str, int] = {}
        self._entered(strategies.get("none"), self.corner)

    def fields(self) -> dict[str, object]:
        """What was found, by the names that a stored contest has for it."""
        profile = self.chain.profile
        assert profile is not None
        none_bytes = predict(profile, plans.plain(len(profile.blocks))).peak_bytes
        profiles = [profile, *([profile.eager] if profile.eager else [])]
        smallest = entrants.ours(1, compiled=self.question.compiled).smallest_bytes
        least_bytes = min(map(smallest, profiles))
        budgets = [self.budget(size) for size in self.sizes(least_bytes, none_bytes)]
        return {
            "plain_peak_bytes": none_bytes,
            "smallest_bytes": least_bytes,
            "budgets": budgets,
            **self._timed(budgets),
        }

    def sizes(self, least_bytes: int, most_bytes: int) -> list[int]:
        """Some of the budgets of promises, from the smallest."""
        ten = planning.budgets_between(least_bytes, most_bytes, promises.BUDGETS)
        count = self.question.budgets
        return [ten[number * len(ten) // count] for number in range(count)]

    def budget(self, budget_bytes: int) -> Budget:
        """Everyone who is asked within one budget, on the model."""
        ours = self.enter(entrants.ours(budget_bytes, compiled=self.question.compiled))
        others = self.others(budget_bytes)
        return Budget(budget_bytes=budget_bytes, ours=ours, others=others)

    def others(self, budget_bytes: int) -> list[Contender]:
        """All but `auto`."""
        return [self.enter(one) for one in entrants.eager(self.chain, budget_bytes)]

    def enter(self, strategy: strategies.Strategy, corner: _Corner | None = None) -> Contender:
        """A contender, prepared and its peak measured, each once."""
        spec = strategy.spec()
        if spec not in self._known:
            try:
                self._known[spec] = self._entered(strategy, corner or self.corner)
            except Exception as error:  # noqa: BLE001 - other people's code: this is its result
                reason = str(error) if isinstance(error, Unsupported) else _sentence(error)
                self._known[spec] = Contender(spec=spec, reason=reason)
        return self._known[spec]

    def _entered(self, strategy: strategies.Strategy, corner: _Corner) -> Contender:
        chain = self.chain if corner is self.corner else None
        settle = functools.partial(settled, step=corner.step)
        prepared = strategies.prepare(corner.step.model, strategy, chain=chain, settle=settle)
        plan = strategy.spec() if strategy.opaque else prepared.schedule.render()
        if plan not in self._places:
            entry = self._entry(plan, corner, prepared)
            self._places[plan] = len(self.entries)
            self.entries.append(entry)
            self.entrants.append((corner, prepared))
        notes = list(prepared.notes)
        return Contender(spec=strategy.spec(), entry=self._places[plan], notes=notes)

    def _entry(self, plan: str, corner: _Corner, prepared: strategies.Prepared) -> Entry:
        peak_bytes = corner.peak_bytes(prepared)
        if prepared.strategy.opaque:
            return Entry(plan=plan, peak_allocated_bytes=peak_bytes)
        assert self.chain.profile is not None
        predicted = prepared.prediction or predict(self.chain.profile, prepared.schedule)
        return Entry(
            plan=plan,
            peak_allocated_bytes=peak_bytes,
            predicted_peak_bytes=predicted.peak_bytes,
            predicted_step_s=predicted.step_s,
        )

    def _timed(self, budgets: Sequence[Budget]) -> dict[str, object]:
        """Steps of all that meet `auto`, of it and of `none`, in the same rounds."""
        pairs = self._pairs(budgets)
        places = sorted({NONE, *(place for pair in pairs for place in pair)})
        names = {place: str(place) for place in places}
        switches = {names[place]: self._switch(place) for place in places}
        switches[AGAIN] = self._switch(NONE)
        device = self.corner.bench.device
        gc.collect()
        interleave(switches, WARMUP, device)
        graphs, watch = _graphs(), Watch()
        seconds = self._seconds(switches, [(names[a], names[b]) for a, b in pairs])
        entries = [
            msgspec.structs.replace(entry, step_s=seconds.get(str(place), []))
            for place, entry in enumerate(self.entries)
        ]
        return {
            "entries": entries,
            "none_again_step_s": seconds[AGAIN],
            "rounds": len(seconds[AGAIN]),
            "compiled_again_count": _graphs() - graphs,
            "other_cpu_share": watch.seen().other_cpu_share,
        }

    def _pairs(self, budgets: Sequence[Budget]) -> list[tuple[int, int]]:
        """Entries of which a ratio is asked for: `auto`'s, and another's that meets it."""
        return [
            (budget.ours.entry, other.entry)
            for budget in budgets
            for other in bouts.met(self.entries, budget, compiled=self.question.compiled)
            if budget.ours.entry is not None and other.entry is not None
        ]

    def _seconds(
        self, switches: dict[str, Switch], pairs: Sequence[tuple[str, str]]
    ) -> dict[str, list[float]]:
        """Raw seconds of each, in so many rounds as the widest interval asks for."""
        seconds: dict[str, list[float]] = {name: [] for name in switches}
        more, started = self.question.rounds, time.perf_counter()
        with planning.frozen():  # modules are no garbage, and collected before every step
            while more:
                for name, steps in interleave(switches, more, self.corner.bench.device).items():
                    seconds[name] += steps
                took_s = time.perf_counter() - started
                unlike = [(seconds[a], seconds[b]) for a, b in pairs if a != b]
                wanted = (rounds.missing(self.question, *pair, took_s) for pair in unlike)
                more = max(wanted, default=0)
        return seconds

    def _switch(self, place: int) -> Switch:
        corner, prepared = self.entrants[place]
        return corner.switch(prepared)


class CompiledRing(Ring):
    """`auto` with compiled blocks, and PyTorch's compiler, a model of its own for each solver.

    To change a model's attributes in between would have it compiled anew in every round.
    """

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        specs = entrants.compilers(question.fractions)
        self._others = [self.enter(one, _Corner(question)) for one in specs]

    def sizes(self, least_bytes: int, most_bytes: int) -> list[int]:
        """The budgets of promises, and what the compiler needs: there both need the same."""
        entered = [one.entry for one in self._others if one.entry is not None]
        peaks = {self.entries[place].peak_allocated_bytes for place in entered}
        sizes: list[int] = []
        for size in sorted({*super().sizes(least_bytes, most_bytes), *peaks}):
            if size >= least_bytes and (not sizes or size > sizes[-1] * (1 + CLOSE)):
                sizes.append(size)
        return sizes

    def others(self, budget_bytes: int) -> list[Contender]:  # noqa: ARG002 - whatever the budget
        """Each solver."""
        return self._others


def _graphs() -> int:
    """How many Dynamo has compiled in this process."""
    from torch._dynamo.utils import counters  # noqa: PLC0415 - takes a second

    return int(counters["stats"]["unique_graphs"])


def _sentence(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"[:300]
