"""Which cells the memory–time front of one workload is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import msgspec

import strategies
from bench.cells.cell import Cell, checked
from bench.run import culprit, executor, planning, sweep
from bench.run.endings import Ending
from strategies import Unsupported
from strategies.contract.budgeted import Budgeted
from strategies.contract.registry import classes
from strategies.contract.strategy import Strategy
from strategies.schedules.interpreter import predict
from strategies.schedules.plan import plain


class Question(msgspec.Struct, frozen=True):
    """What is planned."""

    base: Cell
    count: int


def planned(base: Cell, count: int, timeout_s: float) -> list[Cell]:
    """`cells_of`, in a process of its own.

    Raises:
        ValueError: the user's model is at fault, or the process ended in another way.
    """
    question = msgspec.json.encode(Question(base, count))
    answer = executor.in_process(work, question, timeout_s)
    if isinstance(answer, Ending):
        raise ValueError(f"planning ended in {answer.status}: {answer.reason}")  # noqa: TRY004
    return msgspec.json.decode(answer, type=list[Cell])


def work(payload: bytes) -> bytes:
    """The cells that a question asks for, both as JSON."""
    question = msgspec.json.decode(payload, type=Question)
    with culprit.named(question.base):
        return msgspec.json.encode(cells_of(question.base, question.count))


def cells_of(base: Cell, count: int) -> list[Cell]:
    """Every strategy's grid, and every budgeted strategy at so many budgets.

    Args:
        base: checked; its strategy is of no interest.
        count: budgets, from the smallest that the strategy can keep to the peak of `none`.
    """
    specs = [spec for spec in sweep.every_spec() if not isinstance(strategies.get(spec), Budgeted)]
    for cls in budgeted():
        specs += _at_budgets(cls, base, count)
    return [checked(msgspec.structs.replace(base, spec=spec)) for spec in dict.fromkeys(specs)]


def budgeted() -> Iterator[type[Budgeted]]:
    """The strategies that keep a budget, but for those that only rename another one."""
    keepers = [cls for cls in classes().values() if issubclass(cls, Budgeted)]
    for cls in keepers:
        if not any(_renames(cls, other) for other in keepers):
            yield cls


def _renames(cls: type[Budgeted], other: type[Budgeted]) -> bool:
    """Whether ``cls`` plans as ``other`` does: all that decides a plan is inherited from it."""
    decisive = {*vars(Strategy), *vars(Budgeted)}
    inherits = cls is not other and issubclass(cls, other)
    own = {name for c in _between(cls, other) for name in vars(c) if not name.startswith("_")}
    return inherits and not own & decisive


def _between(cls: type, other: type) -> Iterator[type]:
    """``cls`` and what it inherits from before it comes to ``other``."""
    for one in cls.__mro__:
        if one is other:
            return
        yield one


def _at_budgets(cls: type[Budgeted], base: Cell, count: int) -> list[str]:
    """Specifications of a strategy; its default alone where it cannot be planned: that says why."""
    strategy = cls()
    cell = msgspec.structs.replace(base, spec=strategy.spec())
    try:
        profile = planning.profile_for(cell, strategy)
        low_bytes = strategy.smallest_bytes(profile)
    except Unsupported:
        return [strategy.spec()]
    high_bytes = predict(profile, plain(len(profile.blocks))).peak_bytes
    budgets = planning.budgets_between(low_bytes, max(low_bytes, high_bytes), count)
    return [dataclasses.replace(strategy, budget=str(budget)).spec() for budget in budgets]
