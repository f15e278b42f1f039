"""What is laid over another strategy answers for it, in everything that it does not do itself."""

import dataclasses
import inspect

import pytest
import torch
from models import CASES

import strategies
from strategies import Layered, Strategy
from strategies.contract.layered import contract
from strategies.contract.registry import classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sheet(Layered):
    """Laid over another, and does nothing."""


LAYERED = [Sheet, *(cls for cls in classes().values() if issubclass(cls, Layered))]
BELOW = [point.spec() for cls in classes().values() for point in cls.grid()]


def test_the_contract_is_all_that_a_strategy_does():
    """Every public name of `Strategy` is either of the description or of the contract."""
    public = {name for name in dir(Strategy) if not name.startswith("_")}
    described = {name for name in public if name not in vars(Strategy)}
    assert described == {
        "name",
        "grid",
        "spec",
        "params",
        "shown",
        "textbook_memory",
        "textbook_compute",
    }
    assert set(contract()) == public - described
    assert len(contract()) > 10


def answer(strategy, name):
    """What a strategy says, or the function that would say it, and for which strategy."""
    value = getattr(strategy, name)
    return (value.__func__, value.__self__) if inspect.ismethod(value) else value


@pytest.mark.parametrize("cls", LAYERED, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("spec", BELOW)
def test_what_a_layer_does_not_define_is_the_answer_below(cls, spec):
    layer, below = cls(over=spec), strategies.get(spec)
    own = {name for c in cls.__mro__[: cls.__mro__.index(Layered)] for name in vars(c)}
    forwarded = [name for name in contract() if name not in own]
    assert {"needs_profile", "compiled", "counted", "planned", "profiled"} <= set(forwarded)
    for name in forwarded:
        assert answer(layer, name) == answer(below, name), name


@pytest.mark.parametrize(
    ("spec", "name", "value"),
    [
        ("offload(over=memory_budget)", "compiled", True),
        ("offload(over=memory_budget)", "exact", False),
        ("compressed(over=optimal)", "needs_profile", True),
        ("flash_checkpoint(over=offload(over=optimal))", "needs_profile", True),
        ("offload(over=every_layer)", "needs_profile", False),
    ],
)
def test_flags_of_what_is_below(spec, name, value):
    assert getattr(strategies.get(spec), name) is value


def test_the_class_itself_answers_as_the_contract_does():
    for cls in LAYERED:
        assert cls.compiled is cls.needs_profile is False


def test_a_layer_over_a_budget_plans_as_it_does():
    case = CASES["loop"]
    plans = []
    for spec in ("optimal(budget='100%')", "offload(over=optimal(budget='100%'))"):
        applied = strategies.apply(case.model(), spec, example=case.input())
        plans.append(applied.schedule)
    assert plans[0] == plans[1]
    assert torch.is_grad_enabled()
