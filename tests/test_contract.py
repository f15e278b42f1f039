"""What every strategy promises, on every model: discovered, so that a new one is held to it too."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import io
import math

import pytest
import torch
from models import CASES, assert_same, assert_same_state, distance, seed, step
from torch import nn

import strategies
from strategies import Unsupported
from strategies.contract.budgeted import Budgeted
from strategies.contract.registry import classes

# Of a tiny model parameters and their gradients are most, so there is little to save;
# tests/test_budget.py has larger ones.
BUDGETS = ("94%", "100%")
# Compiling takes seconds a model, so what is compiled meets few of them, one for each thing that a
# compiler could do wrong, and the backend that needs no C++ compiler; with no budget, where random
# numbers are allowed, and with one. tests/test_memory_budget.py has the other backend.
COMPILED_CASES = ("loop", "shared", "pairs-indexed", "norms", "resnet")
COMPILED_FRACTIONS = (1.0, 0.5)


def points(cls):
    """What of a strategy is held to the contract."""
    if issubclass(cls, Budgeted):
        return [cls(budget=budget) for budget in BUDGETS]
    if cls.compiled:
        return [cls(fraction=f, backend="aot_eager_decomp_partition") for f in COMPILED_FRACTIONS]
    return cls.grid()


SPECS = [point.spec() for cls in classes().values() for point in points(cls)]
KNOWN = {
    *("none", "every_layer", "every_k", "sqrt", "selective"),
    *("compressed", "offload", "flash_checkpoint"),
}
MODES = {"autocast": {"autocast": True}, "accumulated": {"passes": 2, "backwards": 2}}
# PyTorch refuses, in a clear sentence, to keep a compiled graph for another backward.
COMPILED_MODES = {**MODES, "accumulated": {"passes": 2}}
SOME = ["core", "tied", "frozen-prefix", "loop", "shared", "norms", "resnet"]
# Relative error of the gradient on smooth models; of other inexact strategies, only that it is
# finite and complete.
CLOSE = {
    "compressed(codec=fp16)": 1e-3,
    "compressed(codec=bf16)": 1e-2,
    "compressed(codec=int8)": 3e-2,
    "compressed(codec=int4)": 0.3,
    "compressed(codec=projection)": 1.5,
    "flash_checkpoint": 1e-5,
    "memory_budget(fraction=0.5, backend=aot_eager_decomp_partition)": 1e-6,
    "memory_budget(fraction=1.0, backend=aot_eager_decomp_partition)": 1e-6,
}

every_pair = pytest.mark.parametrize("spec", SPECS)


def on(names, specs=SPECS):
    """Every strategy on the models of these names, as ``spec`` and ``name``."""
    pairs = [
        (spec, name)
        for spec in specs
        for name in names
        if name in COMPILED_CASES or not strategies.get(spec).compiled
    ]
    ids = [f"{spec}-{name}" for spec, name in pairs]
    return pytest.mark.parametrize(("spec", "name"), pairs, ids=ids)


def put(model, spec, case):
    """The model under the strategy, with an example for those that ask for one."""
    example = case.input() if strategies.get(spec).needs_profile else None
    return strategies.apply(model, spec, example=example)


@functools.cache
def plain(case, mode, *, compiled=False):
    """A step without a strategy."""
    return step(case.model(), case.input(), **options(mode, compiled))


def options(mode, compiled):
    """Of a step."""
    return (COMPILED_MODES if compiled else MODES).get(mode, {})


@contextlib.contextmanager
def refused(case, spec):
    """Expects `Unsupported`, with a reason, exactly where it is known to be due."""
    strategy = strategies.get(spec)
    reasons = []
    try:
        yield
    except Unsupported as error:
        reasons.append(str(error))
    if strategy.name() in KNOWN:
        assert bool(reasons) == case.refuses(strategy), reasons
    assert all("use every_layer" in r or r.startswith(strategy.name()) for r in reasons), reasons


def snapshot(model):
    """Everything about the modules that a strategy could touch."""
    return [
        (name, type(module), dict(vars(module)), list(module._modules), list(module._buffers))
        for name, module in model.named_modules(remove_duplicate=False)
    ]


def assert_kept(found, wanted, *, compiled):
    """Buffers and random state; what a compiler computes, it rounds in another order."""
    if compiled:
        torch.testing.assert_close(found.buffers, wanted.buffers)
        found = dataclasses.replace(found, buffers=wanted.buffers)
    assert_same_state(found, wanted)


def check_step(spec, case, mode):
    """A step under the strategy, compared with one without."""
    model = case.model()
    with refused(case, spec):
        applied = put(model, spec, case)
        compiled = applied.strategy.compiled
        found = step(model, case.input(), **options(mode, compiled))
        wanted = plain(case, mode, compiled=compiled)
        if applied.strategy.exact:
            assert_same(found, wanted)
        else:
            assert_kept(found, wanted, compiled=compiled)
            held = case.smooth and mode != "autocast"
            assert distance(found, wanted) < (CLOSE.get(spec, math.inf) if held else math.inf)


@on(CASES)
def test_a_step_is_that_of_no_checkpointing(spec, name):
    check_step(spec, CASES[name], "train")


@pytest.mark.parametrize("mode", MODES)
@on(SOME)
def test_autocast_and_accumulation(spec, name, mode):
    check_step(spec, CASES[name], mode)


@on(CASES)
def test_evaluation_is_not_checkpointed(spec, name, request):
    case = CASES[name]
    reference, model = case.model(), case.model()
    with contextlib.suppress(Unsupported):
        put(model, spec, case)
    request.getfixturevalue("no_checkpoint")
    for training in (True, False):
        outputs = []
        for each in (reference.train(training), model.train(training)):
            seed(3)
            with torch.no_grad():
                outputs.append(torch.utils._pytree.tree_leaves(each(case.input())))
            outputs[-1].append(torch.get_rng_state())
        if "flash" in spec:
            for one, other in zip(*outputs, strict=True):
                torch.testing.assert_close(one, other)
        else:
            assert all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))


@on(["gpt", "core", "encoder", "loop", "norms", "resnet", "sequential"])
def test_gradients_in_evaluation_mode(spec, name):
    case = CASES[name]
    reference, model = case.model().eval(), case.model()
    with refused(case, spec):
        put(model, spec, case)
        model.eval()
        assert not any(module.training for module in model.modules())
        found, wanted = step(model, case.input()), step(reference, case.input())
        if strategies.get(spec).exact:
            assert_same(found, wanted)
        else:
            assert_kept(found, wanted, compiled=strategies.get(spec).compiled)
            assert distance(found, wanted) < math.inf


@on(CASES)
def test_parameters_stay_themselves_and_undo_restores_everything(spec, name):
    case = CASES[name]
    model = case.model()
    parameters, keys = list(model.parameters()), list(model.state_dict())
    before = snapshot(model)
    with refused(case, spec):
        applied = put(model, spec, case)
        assert applied.model is model
        assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
        assert list(model.state_dict()) == keys
        with pytest.raises(ValueError, match=r"already; call strategies\.undo"):
            strategies.apply(model, "none")
        step(model, case.input())
    handle = vars(model).get("ckpt_applied")
    if handle is not None:
        assert strategies.undo(model) is model
        assert handle.undo() is model  # a second time does nothing
    with pytest.raises(ValueError, match="under no strategy"):
        strategies.undo(model)
    for one, other in zip(before, snapshot(model), strict=True):
        assert one == other
    model.load_state_dict(case.model().state_dict())
    assert_same(step(model, case.input()), plain(case, "train"))


@on(["core", "tied", "loop", "shared", "resnet"])
def test_a_copy_is_independent(spec, name):
    case = CASES[name]
    model = case.model()
    with refused(case, spec):
        put(model, spec, case)
        copied = copy.deepcopy(model)
        assert not {id(m) for m in model.modules()} & {id(m) for m in copied.modules()}
        found = step(copied, case.input())
        assert all(p.grad is None for p in model.parameters())
        strategies.undo(model)
        model.requires_grad_(False)
        for parameter in model.parameters():
            parameter.data.zero_()
        again = copy.deepcopy(copied)
        strategies.undo(copied)
        assert snapshot_types(copied) == snapshot_types(case.model())
        copied.load_state_dict(case.model().state_dict())
        assert_same(step(copied, case.input()), plain(case, "train"))
        again.load_state_dict(case.model().state_dict())
        assert_same(step(again, case.input()), found)


def snapshot_types(model):
    """Classes and attributes of all modules."""
    return [(name, cls, attributes.keys()) for name, cls, attributes, *_ in snapshot(model)]


@on(["core", "loop", "resnet", "unlike"])
def test_state_goes_to_a_file_and_back(spec, name):
    case = CASES[name]
    model, plain_model, other = case.model(), case.model(), case.model()
    with refused(case, spec):
        put(model, spec, case)
        put(other, spec, case)
        found = step(model, case.input())
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        for target in (plain_model, other):
            file.seek(0)
            for parameter in target.parameters():
                nn.init.zeros_(parameter)
            target.load_state_dict(torch.load(file, weights_only=True))
            for name_, tensor in model.state_dict().items():
                assert torch.equal(target.state_dict()[name_], tensor)
        assert step(other, case.input()).gradients.keys() == found.gradients.keys()


@every_pair
def test_every_strategy_runs_on_some_model(spec):
    ran = []
    for name, case in CASES.items():
        if strategies.get(spec).compiled and name not in COMPILED_CASES:
            continue
        model = case.model()
        with contextlib.suppress(Unsupported):
            put(model, spec, case)
            ran.append(step(model, case.input()))
            break
    assert ran


@every_pair
def test_the_handle_undoes_itself_even_after_an_error(spec):
    case = CASES["core"]
    model = case.model()
    before = snapshot(model)

    def fail():
        with put(model, spec, case) as handle:
            assert handle.model is model
            raise KeyError

    with refused(case, spec), pytest.raises(KeyError):
        fail()
    for one, other in zip(before, snapshot(model), strict=True):
        assert one == other


@on(["core", "loop"], [spec for spec in SPECS if strategies.get(spec).exact])
def test_second_derivatives(spec, name):
    case = CASES[name]
    found = []
    for chosen in (spec, "none"):
        model = case.model()
        with refused(case, chosen):
            put(model, chosen, case)
            seed(2)
            loss = model(case.input()).square().mean()
            weights = list(model.h.parameters())
            first = torch.autograd.grad(loss, weights, create_graph=True)
            found.append(torch.autograd.grad(sum(g.square().sum() for g in first), weights))
    if len(found) == 2:  # else the strategy cannot run on this model, as checked above
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
