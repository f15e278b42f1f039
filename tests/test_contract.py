"""What every strategy promises, on every model: discovered, so that a new one is held to it too.

One test is one strategy on one model, in one pass over all promises (`PROMISES`); where
`refusals.expected` says so, the strategy must refuse instead, for that reason.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import refusals
import torch
from effort import few
from models import (
    CASES,
    assert_same,
    assert_same_state,
    distance,
    no_checkpoint,
    seed,
    step,
)
from reference import MODES, TRAIN, Reference, evaluated, reference
from torch import nn

import strategies
from strategies import Applied, Layered, Strategy, Unsupported
from strategies.contract.budgeted import Budgeted
from strategies.contract.registry import classes
from strategies.execution.op_policies import is_policy

# Variants of one strategy that differ in what they keep things in, or in how much of it, meet two
# models; the first of them meets every model.
FEW = ("core", "resnet")
# Compiling takes seconds a model, so what is compiled meets few of them, one for each thing that a
# compiler could do wrong, and the backend that needs no C++ compiler; with no budget, where random
# numbers are allowed, and with one. tests/test_memory_budget.py has the other backend.
COMPILED = ("loop", "shared", "pairs-indexed", "norms", "resnet")
COMPILED_ALWAYS = ("loop",)
# They take seconds to find a plan: a short run meets them on two models.
SLOW = ("auto", "milp", "hybrid", "selective_ops")
AOT_EAGER = "aot_eager_decomp_partition"
# What further promises are checked on.
IN_OTHER_MODES = ("core", "tied", "frozen-prefix", "loop", "shared", "norms", "resnet")
COPIED = ("core", "tied", "loop", "shared", "resnet")
STORED = ("core", "loop", "resnet", "unlike")
TWICE_DERIVED = ("core", "loop")
# Relative error of the gradient on smooth models; of other inexact strategies, only that it is
# finite and complete.
CLOSE = {
    "compressed(codec=fp16)": 1e-3,
    "compressed(codec=bf16)": 1e-2,
    "compressed(codec=int8)": 3e-2,
    "compressed(codec=int4)": 0.3,
    "compressed(codec=projection)": 1.5,
    "flash_checkpoint": 1e-5,
    f"memory_budget(fraction=0.5, backend={AOT_EAGER})": 1e-6,
    f"memory_budget(fraction=1.0, backend={AOT_EAGER})": 1e-6,
}


@dataclasses.dataclass(frozen=True)
class Point:
    """A strategy whose budget, if it has one, depends on the model."""

    label: str
    cls: type[Strategy]
    strategy: Callable[[Reference], Strategy]


def points(cls: type[Strategy]) -> list[Point]:
    """What of a strategy is held to the contract."""
    if issubclass(cls, Budgeted):
        name = cls.name()
        return [
            Point(f"{name}(tight)", cls, lambda given: cls(budget=budget(given, "tight_bytes"))),
            Point(f"{name}(loose)", cls, lambda given: cls(budget=budget(given, "loose_bytes"))),
        ]
    if cls.compiled:
        grid = [cls(fraction=fraction, backend=AOT_EAGER) for fraction in (1.0, 0.5)]
    else:
        grid = list(cls.grid())
    return [Point(each.spec(), cls, lambda _, each=each: each) for each in grid]


def budget(given: Reference, name: str) -> str:
    """In bytes."""
    return str(getattr(given, name))


def meets(cls: type[Strategy], position: int, name: str) -> bool:
    """Whether the point of that position in its strategy's list is tried on a model."""
    if cls.compiled:
        return name in COMPILED
    return name in FEW or not position or not issubclass(cls, (Budgeted, Layered))


PAIRS = {
    f"{point.label}-{name}": (point, name)
    for name in CASES
    for cls in classes().values()
    for position, point in enumerate(points(cls))
    if meets(cls, position, name)
}


def marks(key: str) -> list[pytest.MarkDecorator]:
    point, name = PAIRS[key]
    compiled = point.cls.compiled and name not in COMPILED_ALWAYS
    long = compiled or (point.cls.name() in SLOW and name not in FEW)
    return [pytest.mark.long] * long


@pytest.mark.parametrize(
    ("point", "name"),
    [pytest.param(*pair, id=key, marks=marks(key)) for key, pair in PAIRS.items()],
)
def test_every_promise(point: Point, name: str, request: pytest.FixtureRequest) -> None:
    given = reference(name)
    strategy = point.strategy(given)
    everything = not strategy.compiled or request.config.getoption("--long")
    reason = refusals.expected(given, strategy)
    model = given.case.model()
    before = snapshot(model)
    if reason is None:
        trial = Trial(given, name, point.label, strategy, model)
        for promise in PROMISES + FURTHER_PROMISES * everything:
            promise(trial)
        assert_undone(model, before, given)
    else:
        assert_refused(given, strategy, model, reason)
        assert_undone(model, before, given)


@dataclasses.dataclass
class Trial:
    """A strategy on a model, which is under it or not, and in its first state."""

    given: Reference
    name: str
    label: str
    strategy: Strategy
    model: nn.Module

    def put(self, model: nn.Module) -> Applied:
        """A model of this case under the strategy."""
        return strategies.apply(model, self.strategy, chain=self.given.chain(model, self.strategy))

    def reset(self) -> None:
        """The model's first state."""
        self.model.load_state_dict(self.given.state)
        self.model.train().zero_grad()


def assert_refused(given: Reference, strategy: Strategy, model: nn.Module, reason: str) -> None:
    """At once, or in the first step; in between the model can be evaluated."""

    def run() -> None:
        strategies.apply(model, strategy, chain=given.chain(model, strategy))
        assert_evaluated(strategy, model, given)
        model.load_state_dict(given.state)
        step(model.train(), given.case.input())

    with pytest.raises(Unsupported, match=reason):
        run()


def assert_undone(model: nn.Module, before: list[Any], given: Reference) -> None:
    """Nothing is left of a strategy, applied or refused."""
    handle = vars(model).get("ckpt_applied")
    if handle is not None:
        assert strategies.undo(model) is model
        assert handle.undo() is model  # a second time does nothing
    with pytest.raises(ValueError, match="under no strategy"):
        strategies.undo(model)
    model.train()
    for one, other in zip(before, snapshot(model), strict=True):
        assert one == other
    model.load_state_dict(given.state)
    assert_same(step(model, given.case.input()), given.step())


def snapshot(model: nn.Module) -> list[Any]:
    """Everything about the modules that a strategy could touch."""
    return [
        (name, type(module), dict(vars(module)), list(module._modules), list(module._buffers))
        for name, module in model.named_modules(remove_duplicate=False)
    ]


def snapshot_types(model: nn.Module) -> list[Any]:
    """Classes and attributes of all modules."""
    return [(name, cls, attributes.keys()) for name, cls, attributes, *_ in snapshot(model)]


# The promises, in the order in which they are checked. The first puts the model under the strategy.


def parameters_stay_themselves(trial: Trial) -> None:
    model = trial.model
    parameters, keys = list(model.parameters()), list(model.state_dict())
    applied = trial.put(model)
    assert applied.model is model
    if trial.label.endswith("(tight)"):
        alike = len({type(block) for block in applied.chain.blocks}) == 1
        assert not alike or trial.given.tight_bytes < trial.given.loose_bytes
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert list(model.state_dict()) == keys
    with pytest.raises(ValueError, match=r"already; call strategies\.undo"):
        strategies.apply(model, "none")


def a_step_is_that_of_no_checkpointing(trial: Trial) -> None:
    compare(trial, TRAIN)


def so_it_is_in_other_modes(trial: Trial) -> None:
    if trial.name in IN_OTHER_MODES:
        accumulated = "accumulated once" if trial.strategy.compiled else "accumulated"
        with no_cast_is_shared(trial):
            compare(trial, "autocast")
        compare(trial, accumulated)


@contextlib.contextmanager
def no_cast_is_shared(trial: Trial) -> Iterator[None]:
    """Of a matrix that two blocks share, where an op policy numbers the operators of one."""
    applied = vars(trial.model)["ckpt_applied"]
    if trial.name != "tied" or not any(map(is_policy, applied.schedule.modes)):
        yield
        return
    with pytest.raises(Unsupported, match="shares parameters with another block, and autocast"):
        yield
    trial.reset()


def gradients_can_be_taken_in_evaluation_mode(trial: Trial) -> None:
    trial.model.eval()
    assert not any(module.training for module in trial.model.modules())
    compare(trial, TRAIN, training=False)


def evaluation_is_not_checkpointed(trial: Trial) -> None:
    assert_evaluated(trial.strategy, trial.model, trial.given)
    trial.reset()


def gradients_can_be_differentiated(trial: Trial) -> None:
    if trial.name not in TWICE_DERIVED or not trial.strategy.exact:
        return
    plain = trial.given.case.model()
    for one, other in zip(*map(twice_derived, (trial.model, plain), [trial] * 2), strict=True):
        assert torch.equal(one, other)
    trial.reset()


def state_goes_to_a_file_and_back(trial: Trial) -> None:
    if trial.name not in STORED:
        return
    other = trial.given.case.model()
    trial.put(other)
    found = step(trial.model, trial.given.case.input())
    file = io.BytesIO()
    torch.save(trial.model.state_dict(), file)
    for target in (trial.given.case.model(), other):
        for parameter in target.parameters():
            nn.init.zeros_(parameter)
        file.seek(0)
        target.load_state_dict(torch.load(file, weights_only=True))
        for key, tensor in trial.model.state_dict().items():
            assert torch.equal(target.state_dict()[key], tensor), key
    assert step(other, trial.given.case.input()).gradients.keys() == found.gradients.keys()
    trial.reset()


def a_copy_is_independent(trial: Trial) -> None:
    """The original is undone meanwhile, and put under the strategy again."""
    if trial.name not in COPIED:
        return
    model, case = trial.model, trial.given.case
    copied = copy.deepcopy(model)
    assert not {id(m) for m in model.modules()} & {id(m) for m in copied.modules()}
    found = step(copied, case.input())
    assert all(p.grad is None for p in model.parameters())
    strategies.undo(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    again = copy.deepcopy(copied)
    strategies.undo(copied)
    assert snapshot_types(copied) == snapshot_types(case.model())
    copied.load_state_dict(trial.given.state)
    assert_same(step(copied, case.input()), trial.given.step())
    again.load_state_dict(trial.given.state)
    assert_same(step(again, case.input()), found)
    trial.put(model)
    trial.reset()


def the_handle_undoes_itself_even_after_an_error(trial: Trial) -> None:
    model = trial.given.case.model()
    before = snapshot(model)

    def fail() -> None:
        with trial.put(model) as handle:
            assert handle.model is model
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    for one, other in zip(before, snapshot(model), strict=True):
        assert one == other


# In a short run, a compiler is spared the further ones.
PROMISES = (
    parameters_stay_themselves,
    a_step_is_that_of_no_checkpointing,
    gradients_can_be_taken_in_evaluation_mode,
    evaluation_is_not_checkpointed,
    the_handle_undoes_itself_even_after_an_error,
)
FURTHER_PROMISES = (
    so_it_is_in_other_modes,
    gradients_can_be_differentiated,
    state_goes_to_a_file_and_back,
    a_copy_is_independent,
)


def compare(trial: Trial, mode: str, *, training: bool = True) -> None:
    """A step under the strategy, with one without; then the first state again."""
    given, compiled = trial.given, trial.strategy.compiled
    found = step(trial.model, given.case.input(), **MODES[mode])
    wanted = given.step(mode, training=training)
    if trial.strategy.exact:
        assert_same(found, wanted)
    else:
        assert_kept(found, wanted, compiled=compiled)
        held = given.case.smooth and mode != "autocast" and training
        assert distance(found, wanted) < (CLOSE.get(trial.label, math.inf) if held else math.inf)
    trial.reset()


def assert_kept(found: Any, wanted: Any, *, compiled: bool) -> None:
    """Buffers and random state; what a compiler computes, it rounds in another order."""
    if compiled:
        torch.testing.assert_close(found.buffers, wanted.buffers)
        found = dataclasses.replace(found, buffers=wanted.buffers)
    assert_same_state(found, wanted)


def assert_evaluated(strategy: Strategy, model: nn.Module, given: Reference) -> None:
    """Without gradients nothing is checkpointed, and outputs are those of no strategy."""
    with no_checkpoint():
        found = evaluated(model, given.case)
    switched = strategy.attention_kernel(model) is not None
    for one, other in zip(found, given.evaluated, strict=True):
        if switched:  # another order of summation
            torch.testing.assert_close(one, other)
        else:
            assert torch.equal(one, other)


def twice_derived(model: nn.Module, trial: Trial) -> tuple[torch.Tensor, ...]:
    """The gradient of the squared gradient."""
    seed(2)
    loss = model(trial.given.case.input()).square().mean()
    weights = list(model.h.parameters())
    first = torch.autograd.grad(loss, weights, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), weights)


# The table of refusals itself.


@pytest.mark.parametrize("cls", classes().values(), ids=classes())
def test_every_point_runs_on_some_model(cls: type[Strategy]) -> None:
    """Always refused is never checked."""
    if cls.compiled and refusals.no_pass in refusals.RULES:
        pytest.skip("PyTorch 2.9 has no pass to watch")
    for position, point in enumerate(points(cls)):
        names = [name for name in FEW if meets(cls, position, name)]
        given = [reference(name) for name in names]
        assert any(not refusals.expected(each, point.strategy(each)) for each in given), point.label


def test_every_rule_refuses_something() -> None:
    for rule in refusals.RULES:
        assert any(
            rule(reference(name), point.strategy(reference(name)))
            for point, name in PAIRS.values()
            if name in ("loop", "scaled") and not issubclass(point.cls, Budgeted)  # no profile
        ), rule.__name__


@pytest.mark.parametrize("name", few(FEW))
@pytest.mark.parametrize("cls", [cls for cls in classes().values() if cls.needs_profile])
def test_an_example_will_do_in_place_of_a_profile(cls: type[Strategy], name: str) -> None:
    given = reference(name)
    model = given.case.model()
    with strategies.apply(model, cls(budget="100%"), example=given.case.input()):
        assert_same(step(model, given.case.input()), given.step())
