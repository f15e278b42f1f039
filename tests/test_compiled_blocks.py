"""Blocks compiled by themselves, each under a memory budget: modes like any other."""

import copy
import dataclasses
import functools
import io

import costs
import pytest
import tiny
import torch
from effort import few
from models import BLOCKS, WIDTH, chain_of, seed
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

import strategies
from strategies.execution import block_modes, compiler, layout
from strategies.execution.undo import undo_all
from strategies.profiling import compiled
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.block_times import Ratio, TimedForward
from strategies.profiling.variants import Variant, lean, with_variants
from strategies.schedules.interpreter import predict
from strategies.schedules.modes import PS, BlockOperators, Compilation
from strategies.schedules.schedule import Schedule

AOT = "aot_eager_decomp_partition"
SIZE = {"dim": 32, "heads": 2, "seq": 48, "batch": 2}
RATIOS = {"partitioned(100)": 0.6, "partitioned(50)": 0.7, "partitioned(20)": 0.8, "all": 0.6}
BUDGETS = ("100%", "85%", "70%", "60%")
STRIDE = "expected size 2==2, stride 4096==16384 at dim=0"
"""What Inductor says in PyTorch 2.13 on channels last, if code is one for several shapes."""
MARKS = 64
"""Bytes of the profiler's own marks."""
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.skipif(not compiler.can_be_watched(), reason="the partitioner cannot be watched"),
]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def faster(monkeypatch):
    """Compiled blocks are the faster, by figures that no day changes."""

    def compare(self, *call):
        self.ratios = {name: Ratio(RATIOS[name], RATIOS[name]) for name in self.ways}

    monkeypatch.setattr(TimedForward, "_compare", compare)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


def mlps():
    seed(0)
    return chain_of(BLOCKS, Mlp)


def graphs():
    return counters["stats"]["unique_graphs"]


def gradients(model):
    rows = torch.linspace(-2, 2, 3 * WIDTH).view(3, WIDTH)
    model.zero_grad()
    model(rows.requires_grad_()).square().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


def are_close(found, wanted):
    """Bitwise they are not: decomposed operators round in another order."""
    return all(
        torch.allclose(f, w, rtol=1e-4, atol=1e-6) for f, w in zip(found, wanted, strict=True)
    )


def installed(model, text):
    """The model under a schedule, written as text; returns how to undo it."""
    schedule, chain = Schedule.parse(text), strategies.find_chain(model)
    undos = block_modes.install(chain, dict(enumerate(schedule.modes)))
    return undos + layout.install(chain, schedule.plan, model=model)


def everywhere(mode, plan="{} {} {} {} {}"):
    return plan.format(*(f"{index}:{mode}" for index in range(BLOCKS)))


def peak_bytes(step):
    """Of a step by the allocator, after two that compile."""
    for _ in range(2):
        step.backward(step.forward())
        step.drop_gradients()
    with AllocatorTrace() as trace:
        trace.mark("begin")
        step.backward(step.forward())
        trace.mark("end")
    step.drop_gradients()
    return trace.working_bytes("begin", "end")


# Names.


@pytest.mark.parametrize("name", ["compiled(0)", "compiled(7)", "partitioned(50)", "compiled(100)"])
def test_a_name_is_read_back(name):
    assert Compilation.parse(name).name == name
    assert Schedule.parse(f"0:{name} 1").render() == f"0:{name} 1"


@pytest.mark.parametrize("name", ["compiled(101)", "compiled(05)", "compiled(5,7)", "compiled"])
def test_other_names_are_no_modes(name):
    assert Compilation.parse(name) is None
    with pytest.raises(ValueError, match=r"a mode is one of all, core, products, keep\(2,5\) or"):
        block_modes.install(strategies.find_chain(mlps()), {0: name})


def test_groups_run_without_a_budget():
    text = "[0:compiled(100) 1] 2:compiled(20)"
    assert Schedule.parse(text).render() == text
    with pytest.raises(ValueError, match=r"not compiled\(50\); of compiled modes compiled\(100\)"):
        Schedule.parse("[0:compiled(50)]")


# How they run.


@pytest.mark.parametrize("per_cent", [100, 20])
def test_gradients_are_close_and_equal_blocks_share_code(per_cent):
    model, wanted = mlps(), gradients(mlps())
    undos = installed(model, everywhere(f"partitioned({per_cent})"))
    found = gradients(model)
    assert graphs() == 1
    assert are_close(found, wanted)
    undo_all(undos)
    assert all(map(torch.equal, gradients(model), wanted))
    assert graphs() == 1


def test_groups_around_compiled_blocks_repeat_them_to_the_bit():
    model = mlps()
    undos = installed(model, everywhere("partitioned(100)"))
    wanted = gradients(model)
    undo_all(undos)
    installed(model, everywhere("partitioned(100)", "[{} {}] [[{} {}] {}]"))
    assert all(map(torch.equal, gradients(model), wanted))


def test_they_are_copied_and_pickled():
    model = mlps()
    installed(model, everywhere("partitioned(50)"))
    wanted, file = gradients(model), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert all(map(torch.equal, gradients(other), wanted))
    assert graphs() == 1


def test_a_counter_of_operators_sees_them_as_they_are():
    model, other = mlps(), mlps()
    with FlopCounterMode(display=False) as wanted:
        gradients(other)
    installed(model, everywhere("partitioned(50)"))
    with FlopCounterMode(display=False) as counter:
        gradients(model)
    assert counter.get_total_flops() == wanted.get_total_flops() > 0
    assert graphs() == 0
    gradients(model)
    assert graphs() == 1


# What they cost, by hand.


def variant(name, total, **figures):
    mode = costs.mode(name=name, saved_bytes=5)
    return Variant(mode=mode, forward_ratio=total, total_ratio=total, **figures)


def test_the_faster_one_runs_in_groups_and_no_time_is_below_zero():
    operators = BlockOperators((), (), (), 0, 0)
    eager = costs.block(
        costs.mode(recompute_s=0.0, backward_flops=7),
        costs.mode(name="core", recompute_s=0.5),
        forward_s=1.0,
        backward_s=3.0,
        last_recompute_s=0.9,
        operators=operators,
    )
    whole = variant("compiled(100)", 0.5, unsaved_working_bytes=11, recompute_working_bytes=12)
    block = with_variants(eager, [whole, variant("compiled(50)", 0.375)])
    times_s = {mode.name: mode.recompute_s for mode in block.modes}
    assert times_s == {"compiled(100)": 0.5, "all": 2.5, "core": 3.0, "compiled(50)": 0.0}
    assert block.modes[0].name == "compiled(100)"
    assert (block.forward_s, block.backward_s, block.last_recompute_s) == (0.5, 1.0, 1.0)
    assert (block.unsaved_working_bytes, block.recompute_working_bytes) == (11, 12)
    assert {mode.backward_flops for mode in block.modes if mode.saved_bytes == 5} == {7}
    assert block.operators.fixed_ps == 2.5 * PS
    profile = costs.chain(block, fixed_s=0.0)
    for name, step_s in {"all": 4.0, "compiled(100)": 2.0, "compiled(50)": 1.5}.items():
        assert predict(profile, Schedule((0,), (name,))).step_s == step_s
    # Forward, and again with the backward of the same mode.
    assert predict(profile, Schedule(((0,),), ("compiled(100)",))).step_s == 2.5
    with pytest.raises(ValueError, match=r"known of mode compiled\(100\), not of all"):
        predict(profile, Schedule(((0,),)))


def test_the_slower_one_does_not():
    eager = costs.block(
        forward_s=1.0, backward_s=3.0, last_recompute_s=0.9, unsaved_working_bytes=2
    )
    whole = variant("compiled(100)", 2.0, unsaved_working_bytes=11, recompute_working_bytes=12)
    block = with_variants(eager, [whole])
    assert [(mode.name, mode.recompute_s) for mode in block.modes] == [
        ("all", 0.0),
        ("compiled(100)", 4.0),
    ]
    assert (block.forward_s, block.backward_s, block.last_recompute_s) == (1.0, 3.0, 0.9)
    assert block.unsaved_working_bytes == 2


@pytest.mark.parametrize("ratio", few([0.5, 2.0]))
@pytest.mark.parametrize(("least_bytes", "first"), few([(2, "compiled(100)"), (9, "all")]))
def test_the_way_that_needs_least_is_no_matter_of_the_clock(ratio, least_bytes, first):
    eager = costs.block(unsaved_working_bytes=5, recompute_working_bytes=5)
    needs = {"unsaved_working_bytes": least_bytes, "recompute_working_bytes": least_bytes}
    block = lean(eager, [variant("compiled(100)", ratio, **needs)])
    assert (block.modes[0].name, block.recompute_working_bytes) == (first, min(5, least_bytes))
    assert {mode.name for mode in block.modes} == {"all", "compiled(100)"}


@pytest.mark.parametrize("ratio", few([0.5, 2.0]))
def test_the_smallest_budget_is_no_matter_of_the_clock(ratio):
    eager = costs.block(
        costs.mode(saved_bytes=50),
        forward_s=1.0,
        backward_s=3.0,
        unsaved_working_bytes=60,
        recompute_working_bytes=70,
    )
    needs = {"unsaved_working_bytes": 20, "recompute_working_bytes": 30}
    whole = dataclasses.replace(
        variant("compiled(100)", ratio, **needs),
        mode=costs.mode(name="compiled(100)", saved_bytes=50),
    )
    both, least = with_variants(eager, [whole]), lean(eager, [whole])
    profile = costs.chain(
        *[both] * 4, eager_blocks=(eager,) * 4, lean_blocks=() if least == both else (least,) * 4
    )
    smallest = min(map(strategies.get("optimal", compile=True).smallest_bytes, profile.ways))
    eager_bytes = strategies.get("optimal").smallest_bytes(profile.eager)
    assert smallest == strategies.get("optimal").smallest_bytes(costs.chain(*[least] * 4))
    assert smallest < eager_bytes
    [answer] = strategies.get("optimal", compile=True, budget=str(smallest)).answers(profile)
    assert answer.prediction.peak_bytes <= smallest
    assert "compiled(100)" in answer.schedule.modes
    with pytest.raises(strategies.Unsupported, match=f"that does is {smallest:,} bytes"):
        strategies.get("optimal", compile=True, budget=str(smallest - 1)).answers(profile)


# What is promised.


@functools.cache
def profiled():
    """A step, its chain with costs, and of how many graphs: it takes seconds."""
    step = tiny.step("gpt-mini", **SIZE)
    auto = strategies.get("auto", compile=True, backend=AOT)
    return step, strategies.profiled(step.model, auto, step), graphs()


def test_the_peak_is_within_every_budget(faster):
    step, chain, known = profiled()
    assert known == 3
    none_bytes = predict(chain.profile, Schedule(tuple(range(6)))).peak_bytes
    rendered = set()
    for budget in BUDGETS:
        spec = {"budget": budget, "compile": True, "backend": AOT}
        with strategies.apply(step.model, "auto", chain=chain, **spec) as applied:
            measured = peak_bytes(step) + chain.profile.resident_bytes
            rendered.add(applied.schedule.render())
        assert measured <= int(budget[:-1]) / 100 * none_bytes
        assert abs(measured - applied.prediction.peak_bytes) <= MARKS
        assert any(map(Compilation.parse, applied.schedule.modes))
        assert any("close to those of none, not bitwise" in note for note in applied.notes)
    assert len(rendered) == len(BUDGETS)
    assert graphs() <= known


def test_eager_blocks_keep_a_budget_that_compiled_ones_do_not(faster):
    step, chain, _ = profiled()
    spec = {"budget": "50%", "compile": True, "backend": AOT}
    with strategies.apply(step.model, "auto", chain=chain, **spec) as applied:
        measured = peak_bytes(step) + chain.profile.resident_bytes
    assert abs(measured - applied.prediction.peak_bytes) <= MARKS
    assert not any(map(Compilation.parse, applied.schedule.modes))
    eager = dataclasses.replace(chain, profile=chain.profile.eager)
    assert (
        applied.schedule
        == strategies.prepare(step.model, "auto", chain=eager, budget="50%").schedule
    )


@pytest.mark.parametrize("text", few(["[[0 1] 2 3] [4 5]", "[0 1] [2 3] 4 5", "0 [1 2] [3] [4 5]"]))
def test_groups_of_compiled_blocks_are_predicted(faster, text):
    step, profiled_chain, _ = profiled()
    profile = profiled_chain.profile
    schedule, chain = profile.schedule(Schedule.parse(text).plan), tiny.chain_of(step)
    undos = block_modes.install(chain, dict(enumerate(schedule.modes)))
    undos += layout.install(chain, schedule.plan)
    measured = peak_bytes(step) + profile.resident_bytes
    undo_all(undos)
    assert set(schedule.modes) == {"partitioned(100)"}
    assert abs(measured - predict(profile, schedule).peak_bytes) <= MARKS


def test_what_is_slower_compiled_is_not(monkeypatch):
    def compare(self, *call):
        self.ratios = {name: Ratio(2.0, 2.0) for name in self.ways}

    monkeypatch.setattr(TimedForward, "_compare", compare)
    step = tiny.step("gpt-mini", **SIZE)
    plain = strategies.prepare(step.model, "auto", step=step, budget="70%")
    chosen = strategies.prepare(
        step.model, "auto", step=step, budget="70%", compile=True, backend=AOT
    )
    assert chosen.schedule == plain.schedule
    assert chosen.notes[0] == plain.notes[0]


def test_times_are_compared_where_the_model_calls_the_block():
    step = tiny.step("gpt-mini")
    optimal = strategies.get("optimal", compile=True, backend=AOT)
    block = strategies.profiled(step.model, optimal, step).profile.blocks[1]
    assert {mode.name for mode in block.modes} >= {"all", *RATIOS}
    assert min(mode.recompute_s for mode in block.modes) == 0
    assert max(mode.recompute_s for mode in block.modes) > 0


def test_without_a_compiler_the_plan_is_eager(monkeypatch):
    monkeypatch.setattr(compiler, "missing_compiler", lambda device: "Inductor needs X")
    step = tiny.step("gpt-mini", **SIZE)
    plain = strategies.prepare(step.model, "auto", step=step, budget="70%")
    chosen = strategies.prepare(step.model, "auto", step=step, budget="70%", compile=True)
    assert chosen.schedule == plain.schedule
    assert chosen.notes == [*plain.notes, "no block is compiled: Inductor needs X"]


@pytest.mark.parametrize(
    ("error", "reason"),
    few(
        [
            (strategies.Unsupported("run again, computes something else"), "run again, computes"),
            (AssertionError(f"{STRIDE}\nError in op: input"), STRIDE),
            (KeyError(), "KeyError"),
        ]
    ),
)
def test_code_of_a_compiler_that_fails_is_no_mode(faster, monkeypatch, error, reason):
    watch = compiled.watch_saved

    def failing(*given):
        monkeypatch.setattr(compiled, "watch_saved", watch)
        raise error

    monkeypatch.setattr(compiled, "watch_saved", failing)
    step = tiny.step("gpt-mini", **SIZE)
    auto = strategies.get("auto", compile=True, backend=AOT)
    profile = strategies.profiled(step.model, auto, step).profile
    [left_out] = profile.left_out
    first, _, said = left_out.partition(": ")
    assert said.startswith(reason)
    assert {mode.name for mode in profile.blocks[1].modes} >= {*RATIOS} - {first, "all"}
    assert first not in {mode.name for mode in profile.blocks[1].modes}


@pytest.mark.parametrize("error", [RuntimeError("abacus\nmore"), ZeroDivisionError("abacus")])
def test_a_way_that_fails_at_once_is_left_out(error):
    block, rows = Mlp(), torch.randn(3, WIDTH)

    def fails(*given):
        raise error

    timed = TimedForward(block, block.forward, {"fails": fails, "runs": block.forward}, "forward")
    timed(rows)
    assert timed.refused == {"fails": "abacus"}
    assert set(timed.ratios) == {"runs"}


@pytest.mark.long
def test_blocks_of_several_shapes_are_compiled_for_each(faster, monkeypatch):
    shapes = set()

    def recorded(self, graph, inputs):
        given = [
            node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder"
        ]
        shapes.update(tuple(value.shape) for value in given if value.dim() == 4)
        return compile_(self, graph, inputs)

    compile_ = compiler.Backend.__call__
    monkeypatch.setattr(compiler.Backend, "__call__", recorded)
    step = tiny.step("resnet-mini")
    strategies.profiled(step.model, strategies.get("auto", compile=True, backend=AOT), step)
    assert len(shapes) > 1
    assert all(type(size) is int for shape in shapes for size in shape)


def test_random_numbers_are_drawn_again_but_not_under_a_budget(faster):
    step = tiny.step("gpt-mini-dropout", **SIZE)
    wanted = drawn(step)
    optimal = strategies.get("optimal", compile=True, backend=AOT, budget="55%")
    chain = strategies.profiled(step.model, optimal, step)
    names = [mode.name for mode in chain.profile.blocks[2].modes]
    assert "partitioned(100)" in names
    assert not {"partitioned(50)", "partitioned(20)"} & set(names)
    with strategies.apply(step.model, optimal, chain=chain) as applied:
        assert "[" in applied.schedule.render()
        assert set(applied.schedule.modes) == {"partitioned(100)"}
        refused = [note for note in applied.notes if "draws random numbers" in note]
        assert [note.partition(":")[0] for note in refused] == [
            "partitioned(50) and partitioned(20)"
        ]
        assert are_close(drawn(step), wanted)
    least = dataclasses.replace(optimal, budget="1")
    with pytest.raises(strategies.Unsupported, match=r"; partitioned\(50\) and .* draws random"):
        least.planned(chain)


def drawn(step):
    torch.manual_seed(5)
    step.drop_gradients()
    step.backward(step.forward())
    return [*(p.grad for p in step.model.parameters()), torch.rand(3)]


def test_what_it_says_of_itself():
    auto = strategies.get("auto", compile=True)
    assert (auto.exact, auto.counted) == (False, False)
    assert strategies.get("auto", compile=True, backend=AOT).counted
    assert (strategies.get("auto").exact, strategies.get("auto").counted) == (True, True)
    assert strategies.get(auto.spec()) == auto
    with pytest.raises(ValueError, match="auto: backend must be one of inductor, aot_eager"):
        strategies.get("auto", backend="eager")


# Blocks that were compiled before.


@pytest.mark.parametrize("way", few(["before", "wrapped", "by apply"]))
def test_a_plan_for_blocks_that_were_compiled_before(faster, way):
    step = tiny.step("gpt-mini", **SIZE)
    blocks = step.model.get_submodule(tiny.chain_of(step).paths[0])
    for index, block in enumerate(blocks):
        if way == "before":
            block.compile(backend="aot_eager")
        elif way == "wrapped":
            blocks[index] = torch.compile(block, backend="aot_eager")
    options = {"compile_blocks": {"backend": "aot_eager"}} if way == "by apply" else {}
    resident_bytes = sum(tensor.nbytes for tensor in step.resident_tensors())
    plans = {}
    for budget in ("100%", "55%"):
        prepared = strategies.prepare(step.model, "optimal", step=step, budget=budget, **options)
        with prepared.apply(**options) as applied:
            measured = peak_bytes(step) + resident_bytes
            plans[budget] = applied.schedule
            predicted = applied.prediction.peak_bytes
        assert 0.9 * predicted < measured <= predicted + MARKS
    assert len(set(plans.values())) == len(plans)
    assert {name for plan in plans.values() for name in plan.modes} == set()


def test_a_budget_for_compiled_blocks_is_not_also_one_of_a_compiler(faster):
    step = tiny.step("gpt-mini")
    for block in tiny.chain_of(step).blocks:
        block.compile(backend="aot_eager")
    spec = {"budget": "100%", "compile": True, "backend": AOT}
    chosen = strategies.prepare(step.model, "auto", step=step, **spec)
    assert "no block is compiled: the blocks are compiled already" in chosen.notes
    assert chosen.schedule.modes == ()


# Kernels.


@pytest.mark.long
def test_inductor():
    if compiler.missing_compiler(torch.device("cpu")):
        pytest.skip("no C++ compiler")
    step = tiny.step("gpt-mini", **SIZE)
    wanted = drawn(step)
    chain = strategies.profiled(step.model, strategies.get("auto", compile=True), step)
    none_bytes = predict(chain.profile, Schedule(tuple(range(6)))).peak_bytes
    for budget in BUDGETS:
        with strategies.apply(step.model, "auto", chain=chain, budget=budget, compile=True):
            assert are_close(drawn(step), wanted)
            measured = peak_bytes(step) + chain.profile.resident_bytes
        assert measured <= int(budget[:-1]) / 100 * none_bytes


# Records.


@pytest.mark.long
def test_a_record_holds_what_was_planned_by(faster):
    spec = f"auto(budget='70%', compile=True, backend={AOT})"
    record = tiny.measure("gpt-mini", spec, SIZE)
    assert (record.status, record.exact) == ("ok", False)
    assert ":partitioned(" in record.plan
    assert record.peak_allocated_bytes <= record.predicted_peak_bytes + MARKS
