"""The contenders of one model: prepared, their peaks measured, and timed in the same rounds.

`auto` settles as it does for its user, on steps of the example; every contender's peak is that of a
training loop with its updates, by the allocator; steps (forward and backward, for updates do not
differ) of all that are within a budget run interleaved.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Sequence

import msgspec

import strategies
from bench.measure.surroundings import Watch
from bench.measure.time import Switch, interleave
from bench.report import bouts
from bench.run import kernels, planning, rounds
from bench.run.limited import limited
from bench.store.contests import NONE, Budget, Contender, Entry
from bench.studies import entrants, promises
from bench.studies.corner import Corner
from strategies.contract.settled import settled
from strategies.execution.errors import Unsupported
from strategies.profiling import trial
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.profile import ChainProfile

BUDGETS = 3
WARMUP = 1
FRACTIONS = (1.0, 0.5)
AGAIN = "none again"
ENTRANT_LIMIT_S = 300.0
"""For a plan, its compilation and its peak: who takes longer cannot run."""
Tell = Callable[[str], None]


class Question(msgspec.Struct, frozen=True):
    """What to contest.

    Attributes:
        budgets: how many of the ten of a study of promises.
        compiled: `auto` with compiled blocks, against PyTorch's compiler under its own budgets.
        fractions: of that compiler.
        rounds: at least, an even number.
        interval_width: more follow of whatever `auto` is not faster than by as much, until no
            interval is wider.
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
    rounds_limit_s: float | None = 90.0
    seed: int = 0


def _corner(question: Question) -> Corner:
    asked = promises.Question(question.model, question.device, seed=question.seed)
    return Corner(asked, accumulation=question.accumulation)


Entrant = tuple[Corner, strategies.Prepared]


class Ring:
    """All contenders on one model.

    Attributes:
        entrants: of each entry, the model that it runs on, and what is done to it.
        tell: is told what has been done.
    """

    def __init__(self, question: Question, tell: Tell = lambda _: None) -> None:
        self.question, self.tell = question, tell
        self.corner = _corner(question)
        strategy = entrants.ours(1, compiled=question.compiled)
        self.chain = strategies.profiled(self.corner.step.model, strategy, self.corner.step)
        tell("profiled")
        self.entrants: list[Entrant] = []
        self.entries: list[Entry] = []
        self._known: dict[str, Contender] = {}
        self._places: dict[str, int] = {}
        self._entered(strategies.get("none"), self.corner)

    def fields(self) -> dict[str, object]:
        """What was found, by the names that a stored contest has for it."""
        profile = self.profile
        none_bytes = predict(profile, plans.plain(len(profile.blocks))).peak_bytes
        smallest = entrants.ours(1, compiled=self.question.compiled).smallest_bytes
        least_bytes = min(map(smallest, profile.ways))
        with trial.frozen():  # modules are no garbage, and collected before every step
            budgets = [self.budget(size) for size in self.sizes(least_bytes, none_bytes)]
            timed = self._timed(budgets)
        return {
            "plain_peak_bytes": none_bytes,
            "smallest_bytes": least_bytes,
            "budgets": budgets,
            **timed,
        }

    @property
    def profile(self) -> ChainProfile:
        """What `auto` plans by."""
        assert self.chain.profile is not None
        return self.chain.profile

    def sizes(self, least_bytes: int, most_bytes: int) -> list[int]:
        """Some of the budgets of promises, from the smallest."""
        ten = planning.budgets_between(least_bytes, most_bytes, promises.BUDGETS)
        count = self.question.budgets
        return [ten[number * len(ten) // count] for number in range(count)]

    def budget(self, budget_bytes: int) -> Budget:
        """Everyone who is asked within one budget, on the model."""
        ours = self.enter(entrants.ours(budget_bytes, compiled=self.question.compiled))
        others = self.others(budget_bytes)
        uses_disk = any(bouts.rests_on_disk(self.entries, other) for other in others)
        with_disk = self.enter(entrants.ours(budget_bytes, disk=True)) if uses_disk else None
        return Budget(budget_bytes=budget_bytes, ours=ours, others=others, with_disk=with_disk)

    def others(self, budget_bytes: int) -> list[Contender]:
        """All but `auto`."""
        return [self.enter(one) for one in entrants.eager(self.chain, budget_bytes)]

    def enter(self, strategy: strategies.Strategy, corner: Corner | None = None) -> Contender:
        """A contender, prepared and its peak measured, each once."""
        spec = strategy.spec()
        if spec not in self._known:
            try:
                with limited(ENTRANT_LIMIT_S):
                    self._known[spec] = self._again(strategy, corner or self.corner)
            except Exception as error:  # noqa: BLE001 - other people's code: this is its result
                reason = str(error) if isinstance(error, Unsupported) else _sentence(error)
                self._known[spec] = Contender(spec=spec, reason=reason)
            self.tell(f"{spec}: {self._outcome(self._known[spec])}")
        return self._known[spec]

    def _again(self, strategy: strategies.Strategy, corner: Corner) -> Contender:
        """As `_entered`, as often as a kernel is in the way that was left unfinished."""
        try:
            return self._entered(strategy, corner)
        except Exception as error:
            if not kernels.removed(error):
                raise
        return self._again(strategy, corner)

    def _outcome(self, contender: Contender) -> str:
        entry = bouts.entry_of(self.entries, contender)
        return f"{entry.peak_allocated_bytes:,} bytes" if entry else contender.reason

    def _entered(self, strategy: strategies.Strategy, corner: Corner) -> Contender:
        chain = self.chain if corner is self.corner else None
        settle = functools.partial(settled, step=corner.step)
        prepared = strategies.prepare(corner.step.model, strategy, chain=chain, settle=settle)
        # Groups are cut where they run, too: what reads no earlier output begins a new one.
        schedule = prepared.schedule.split(self.profile.borders)
        opaque = prepared.whole or (strategy if strategy.opaque else None)
        plan = opaque.spec() if opaque else schedule.render()
        if plan not in self._places:
            predicted = prepared.prediction or predict(self.profile, schedule)
            known = None if opaque else predicted
            entry = Entry(
                plan=plan,
                peak_allocated_bytes=corner.peak_bytes(prepared),
                predicted_peak_bytes=known.peak_bytes if known else None,
                predicted_step_s=known.step_s if known else None,
            )
            self._places[plan] = len(self.entries)
            self.entries.append(entry)
            self.entrants.append((corner, prepared))
        notes = list(prepared.notes)
        return Contender(spec=strategy.spec(), entry=self._places[plan], notes=notes)

    def _timed(self, budgets: Sequence[Budget]) -> dict[str, object]:
        """Steps of all that meet `auto`, of it and of `none`, in the same rounds."""
        pairs = self._pairs(budgets)
        own = [one.entry for budget in budgets for one in budget.own if one.entry is not None]
        places = sorted({NONE, *own, *(place for pair in pairs for place in pair)})
        names = {place: str(place) for place in places}
        switches = {names[place]: self._switch(place) for place in places}
        switches[AGAIN] = self._switch(NONE)
        device = self.corner.bench.device
        gc.collect()
        self.tell(f"{len(switches)} contenders are timed")
        interleave(switches, WARMUP, device)
        graphs, watch = _graphs(), Watch()
        asked = rounds.Asked({names[NONE], AGAIN}, [(names[a], names[b]) for a, b in pairs])
        seconds = rounds.contested(switches, asked, self.question, device)
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
        meetings = [
            (bouts.own_of(self.entries, budget, other).entry, other.entry)
            for budget in budgets
            for other in bouts.met(self.entries, budget, compiled=self.question.compiled)
        ]
        return list(dict.fromkeys((a, b) for a, b in meetings if a is not None and b is not None))

    def _switch(self, place: int) -> Switch:
        corner, prepared = self.entrants[place]
        return corner.switch(prepared)


class CompiledRing(Ring):
    """`auto` with compiled blocks, and PyTorch's compiler, a model of its own for each solver.

    To change a model's attributes in between would have it compiled anew in every round.
    """

    def __init__(self, question: Question, tell: Tell = lambda _: None) -> None:
        super().__init__(question, tell)
        specs = entrants.compilers(question.fractions)
        self._others = [self.enter(one, _corner(question)) for one in specs]

    def sizes(self, least_bytes: int, most_bytes: int) -> list[int]:
        """The budgets of promises, and what the compiler needs: there both need the same."""
        entered = [one.entry for one in self._others if one.entry is not None]
        peaks = {self.entries[place].peak_allocated_bytes for place in entered}
        sizes: list[int] = []
        for size in sorted({*super().sizes(least_bytes, most_bytes), *peaks}):
            if size >= least_bytes and (not sizes or size > sizes[-1] * (1 + bouts.CLOSE)):
                sizes.append(size)
        return sizes

    def others(self, budget_bytes: int) -> list[Contender]:  # noqa: ARG002 - whatever the budget
        """Each solver."""
        return self._others


def _graphs() -> int:
    """How many Dynamo has compiled in this process; to import it takes a second."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0


def _sentence(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"[:300]
