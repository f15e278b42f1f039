"""What is known before a model is touched is worked out once, and used by everything."""

import pytest
import tiny
from models import CASES, assert_same, step

import strategies
from bench.devices import accelerators
from bench.simulate import calibrate
from strategies.contract import budgeted
from strategies.optimal import Optimal
from strategies.schedules import budget as budgets


@pytest.fixture
def asked(monkeypatch):
    """How often a solver is asked, and schedules are interpreted for its strategy."""
    counts = {"solver": 0, "interpreter": 0}

    def counting(owner, name, what):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            counts[what] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counting(Optimal, "solution", "solver")
    counting(budgets, "predict", "interpreter")
    assert not hasattr(budgeted, "predict")  # the strategy has no other interpreter
    return counts


def test_one_apply_plans_once(asked):
    case = CASES["loop"]
    model = case.model()
    applied = strategies.apply(model, "optimal", budget="100%", example=case.input())
    assert asked["solver"] == 1
    assert asked["interpreter"] <= 2
    step(model, case.input())
    assert len(applied.notes) == 2 + 2  # of blocks and of the loop, then of the plan
    assert applied.prediction.peak_bytes <= budgets.resolve("100%", applied.chain.profile)
    assert asked["solver"] == 1


@pytest.mark.parametrize("rounds", [0, 1])
def test_one_record_plans_at_most_twice(asked, rounds, monkeypatch):
    """Once for the model on its device; once more for the roofline of a timed step."""
    # This CPU's own ceilings take hundreds of megabytes to measure.
    monkeypatch.setattr(calibrate, "this_cpu", lambda: accelerators.get("sim:l4-24gb"))
    record = tiny.measure("mlp-chain", "optimal(budget='100%')", rounds=rounds)
    assert record.status == "ok"
    assert asked["solver"] <= 1 + rounds


def test_a_simulated_record_plans_once(asked):
    options = {"layers": 4, "dim": 16, "batch": 8}
    spec = "optimal(budget='100%')"
    record = tiny.measure("mlp-chain", spec, options=options, device="sim:h100-80gb")
    assert record.status == "ok"
    assert asked["solver"] == 1


def test_preparing_leaves_the_model_as_it_is():
    case = CASES["loop"]
    model, wanted = case.model(), step(case.model(), case.input())
    before = [(type(module), dict(vars(module))) for module in model.modules()]
    prepared = strategies.prepare(model, "sqrt")
    assert prepared.plan == strategies.apply(case.model(), "sqrt").plan
    assert [(type(module), dict(vars(module))) for module in model.modules()] == before
    for _ in range(2):
        with prepared.apply() as applied:
            assert applied.schedule is prepared.schedule
            assert_same(step(model, case.input()), wanted)
    assert [(type(module), dict(vars(module))) for module in model.modules()] == before


def test_what_is_prepared_is_applied_once_at_a_time():
    prepared = strategies.prepare(CASES["loop"].model(), "sqrt")
    with prepared.apply(), pytest.raises(ValueError, match="under sqrt already"):
        prepared.apply()
    with prepared.apply(), pytest.raises(ValueError, match="under sqrt already"):
        strategies.prepare(prepared.model, "none")
