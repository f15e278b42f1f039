"""PyTorch's compiler budget: what it keeps, what it leaves alone, and when it is refused."""

import copy
import itertools

import pytest
import tiny
import torch
from models import CASES, assert_same, distance, loss_of, seed, step
from torch._dynamo.utils import counters
from torch._functorch import config as functorch
from torch._inductor import config as inductor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import strategies
from bench.measure import memory
from strategies import Unsupported
from strategies.execution import compiler
from strategies.memory_budget import MemoryBudget
from strategies.profiling.flops import count_flops

watched = compiler.can_be_watched()
pytestmark = pytest.mark.skipif(not watched, reason="PyTorch's partitioner cannot be watched")
LINEAR_FLOPS = 2 * 8 * 8 * 8  # one product of tiny.OPTIONS["mlp-chain"]
SETTINGS = ("activation_memory_budget", "joint_custom_pass", "enable_autograd_cache")


def spec(fraction, backend="aot_eager_decomp_partition"):
    return f"memory_budget(fraction={fraction}, backend={backend})"


def settings():
    """What a budget sets while it compiles."""
    found = [getattr(functorch, name) for name in SETTINGS]
    dynamo = torch._dynamo.config
    limits = (dynamo.recompile_limit, dynamo.accumulated_recompile_limit)
    return [*found, *limits, inductor.fallback_random]


def steady():
    """A model without dropout, that compiles fast."""
    return CASES["loop"].model().eval()


def run(model):
    """A step of it."""
    return step(model, CASES["loop"].input())


def graphs():
    """How many graphs were compiled in this process."""
    return counters["stats"]["unique_graphs"]


# Parameters.


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan"), 2])
def test_a_fraction_is_from_0_to_1(fraction):
    with pytest.raises(ValueError, match="fraction must be from 0 to 1, not"):
        strategies.get("memory_budget", fraction=fraction)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend must be one of inductor, aot_eager_decomp"):
        strategies.get("memory_budget(backend=eager)")


def test_the_default_is_what_users_run():
    assert strategies.get("memory_budget").backend == "inductor"
    assert {point.backend for point in MemoryBudget.grid()} == {"inductor"}
    assert strategies.get(MemoryBudget(fraction=0.2).spec()) == MemoryBudget(fraction=0.2)


# Where it cannot run.


def test_inductor_needs_a_compiler():
    model = CASES["loop"].model()
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(Unsupported, match=r"needs a C\+\+ compiler on a CPU.*use backend=aot_eager"),
    ):
        strategies.apply(model, "memory_budget")
    assert "forward" not in vars(model)


def test_without_a_compiler_the_other_backend_still_runs():
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert MemoryBudget(backend="aot_eager_decomp_partition").unsupported(
            CASES["loop"].model(), torch.device("cpu")
        ) is None  # fmt: skip


def test_simulated_models_are_refused():
    with FakeTensorMode(), pytest.raises(Unsupported, match="not simulated"):
        strategies.apply(tiny.step("mlp-chain").model, spec(0.5))


def test_a_simulated_cell_says_so():
    with pytest.raises(Unsupported, match="not simulated; measure it on a device"):
        tiny.measure("mlp-chain", spec(0.5), device="sim:h100-80gb")


@pytest.mark.parametrize("fraction", [0.5, 0.0])
def test_random_numbers_below_a_fraction_of_1_are_refused(fraction):
    """PyTorch would draw another mask in backward: pytorch/pytorch#190758."""
    case = CASES["loop"]
    model = case.model()
    strategies.apply(model, spec(fraction))
    before = settings()
    for _ in range(2):
        with pytest.raises(Unsupported, match=r"draws random numbers \(aten.native_dropout"):
            step(model, case.input())
    assert settings() == before
    model.eval()
    assert distance(step(model, case.input()), step(case.model().eval(), case.input())) < 1e-6


class Mode(TorchDispatchMode):
    """Dynamo gives up where it is active."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_what_would_make_it_eager_in_silence_is_refused():
    torch._dynamo.reset()  # else the graphs of other tests are found and used again
    case = CASES["loop"]
    model = case.model()
    with strategies.apply(model, spec(1.0)):
        with Mode(), pytest.raises(Unsupported, match="run this model eagerly in silence"):
            model(case.input())
        before = graphs()
        step(model, case.input(), autocast=True)
        assert graphs() > before  # so nothing was marked to be left alone for good


# What it keeps.


def measured(fraction):
    """Bytes of one step, and of the next."""
    work = tiny.step("gpt-mini", layers=2)
    with strategies.apply(work.model, spec(fraction)):
        work()
        before = graphs()
        found = []
        for _ in range(2):
            work.drop_gradients()
            found.append(memory.measure_cpu(work.forward, work.backward))
        assert graphs() == before  # compiled before anything is measured
    return found


@pytest.mark.long
def test_a_smaller_fraction_keeps_less_and_bytes_repeat():
    kept = {}
    for fraction in (1.0, 0.5, 0.0):
        first, second = measured(fraction)
        assert first == second
        kept[fraction] = first.after_forward_bytes
    assert kept[1.0] > kept[0.5] > kept[0.0] > 0


@pytest.mark.parametrize(("fraction", "products"), [(1.0, 0), (0.5, 4), (0.0, 6)])
def test_recompute_by_hand(fraction, products):
    """Seven products in a row: of all but the last, backward needs what comes after them."""
    work = tiny.step("mlp-chain")
    plain = count_flops(work.forward, work.backward)
    with strategies.apply(work.model, spec(fraction)):
        work()
        flops = count_flops(work.forward, work.backward)
    assert flops.forward_flops == plain.forward_flops == 7 * LINEAR_FLOPS
    assert flops.step_flops - plain.step_flops == products * LINEAR_FLOPS


# What it leaves alone.


def test_settings_do_not_leak():
    before = settings()
    with strategies.apply(steady(), spec(0.5)) as applied:
        assert settings() == before
        run(applied.model)
        assert settings() == before
    assert settings() == before


def test_other_compilations_keep_their_own_budget():
    seen = []

    def backend(graph, inputs):
        seen.append(functorch.activation_memory_budget)
        return graph.forward

    with strategies.apply(steady(), spec(0.5)) as applied:
        run(applied.model)
        torch.compile(torch.nn.Linear(2, 2), backend=backend)(torch.ones(1, 2))
    assert seen == [functorch.activation_memory_budget]


def test_two_budgets_of_one_class_are_two_programs_and_one_again_is_none():
    counts = [graphs()]
    for fraction in (0.4, 0.6, 0.4):
        with strategies.apply(steady(), spec(fraction)) as applied:
            run(applied.model)
        counts.append(graphs())
    one, other, again = (b - a for a, b in itertools.pairwise(counts))
    assert one == other > again == 0


def test_undo_runs_eagerly_again():
    case = CASES["shared"]
    model = case.model()
    strategies.apply(model, spec(1.0))
    step(model, case.input())
    strategies.undo(model)
    assert "forward" not in vars(model)
    before = graphs()
    assert_same(step(model, case.input()), step(case.model(), case.input()))
    assert graphs() == before


def test_a_copy_computes_with_its_own_weights():
    case = CASES["loop"]
    model = case.model()
    strategies.apply(model, spec(1.0))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(0.5)
    assert distance(step(copied, case.input()), step(model, case.input())) > 0.1
    assert all(a is not b for a, b in zip(model.parameters(), copied.parameters(), strict=True))


class Broken(torch.nn.Module):
    """Calls what Dynamo cannot trace between its blocks."""

    def __init__(self):
        super().__init__()
        self.h = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(2)])

    def forward(self, x):
        x = torch.tanh(self.h[0](x))
        torch._dynamo.graph_break()
        return torch.tanh(self.h[1](x))


# Dynamo looks at .grad of what the first part hands on, and hides the warning with a filter.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_broken_graph_is_two():
    gradients = []
    for chosen in ("none", spec(0.0)):
        seed(0)
        model = Broken()
        strategies.apply(model, chosen)
        before = graphs()
        loss_of(model(torch.ones(3, 4))).backward()
        gradients.append(model.h[0].weight.grad)
    assert graphs() - before == 2
    torch.testing.assert_close(*gradients)


# Records.


@pytest.mark.long
def test_a_record_holds_what_was_measured_and_no_more():
    none, record = tiny.record("gpt-mini"), tiny.record("gpt-mini", spec(0.0))
    assert (record.status, record.exact, record.grads_bitwise_equal) == ("ok", False, False)
    assert 0 < record.grad_max_rel_err < 1e-5
    assert (record.buffers_equal, record.rng_restored) == (True, True)
    assert (record.plan, record.predicted_peak_bytes, record.block_forwards) == (None, None, [])
    assert record.predicted_recompute_flops is None
    assert record.predicted_saved_after_forward_bytes is None
    assert record.saved_after_forward_bytes < none.saved_after_forward_bytes
    assert record.recompute_flops == record.step_flops - none.step_flops > 0
    assert len(record.notes) == 1
    assert "no plan to print or predict" in record.notes[0]


@pytest.mark.long
def test_timed_rounds_do_not_compile():
    tiny.record("gpt-mini", spec(0.0))
    before = graphs()
    record = tiny.measure("gpt-mini", spec(0.0), rounds=2, warmup=0)
    assert graphs() == before
    assert len(record.step_s) == 2
    assert record.modelled_step_s is record.modelled_none_step_s is None


@pytest.mark.long
def test_running_statistics_that_are_rounded_are_ok_and_said():
    record = tiny.record("resnet-mini", spec(0.5))
    assert (record.status, record.buffers_equal) == ("ok", False)


@pytest.mark.long
def test_inductor():
    if MemoryBudget().unsupported(CASES["loop"].model(), torch.device("cpu")):
        pytest.skip("no C++ compiler")
    record = tiny.measure("mlp-chain", spec(0.0, "inductor"), rounds=1)
    assert record.status == "ok"
    assert record.grad_max_rel_err < 1e-5
    assert record.saved_after_forward_bytes < tiny.record("mlp-chain").saved_after_forward_bytes
    assert (record.forward_flops, record.step_flops, record.recompute_flops) == (None, None, None)
    assert "cannot be counted" in record.notes[1]
