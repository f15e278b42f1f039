"""What `apply` says of an example, and how it checks a step on it."""

import copy
import warnings

import pytest
import torch
from models import BLOCKS, CASES, WIDTH, Loop, Small, assert_same, step
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import strategies
from strategies import Unsupported, find_chain
from strategies.execution import state
from strategies.profiling.coverage import coverage
from strategies.profiling.step import ExampleStep

ROWS = torch.linspace(-2, 2, 3 * WIDTH).view(3, WIDTH)


class Idle(nn.Module):
    """Two towers, of which one is not run, and a head that saves as much as a block."""

    def __init__(self):
        super().__init__()
        self.used = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.idle = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(2)])

    def forward(self, x):
        for block in self.used:
            x = block(x)
        return x.exp()


def test_bytes_by_hand():
    model = Idle()
    found = coverage(find_chain(model), ExampleStep(model, ROWS))
    assert found.ran == (1, 1, 1, 0, 0)
    # The first block saves the batch, the others what the one before returned; exp its output.
    assert (found.inside_bytes, found.outside_bytes) == (2 * ROWS.nbytes, ROWS.nbytes)


def test_a_loss_may_know_real_labels():
    """It is called on fake tensors all the same, which take no memory."""
    model, labels, seen = Idle(), ROWS.abs(), []

    def loss(output):
        seen.append(type(output))
        return (output * labels).sum()

    found = coverage(find_chain(model), ExampleStep(model, ROWS, loss))
    assert seen == [FakeTensor]
    assert (found.inside_bytes, found.outside_bytes) == (2 * ROWS.nbytes, 2 * ROWS.nbytes)


@pytest.mark.parametrize("spec", ["none", "every_layer", "sqrt", "offload"])
def test_notes_say_what_is_covered_and_what_did_not_run(spec):
    with strategies.apply(Idle(), spec, example=ROWS) as applied:
        assert applied.notes[:2] == [
            "blocks: 3 of used and 2 of idle; they save 67% of what forward saves",
            "not run on the example, and so without effect: idle.0, idle.1",
        ]


class NeedsValues(Loop):
    """Branches on a value, which a fake tensor has not."""

    def forward(self, x):
        return super().forward(x) if x.sum() > -1e9 else x


def test_a_model_that_needs_values_is_watched_as_it_is():
    model = NeedsValues()
    found = coverage(find_chain(model), ExampleStep(model, ROWS))
    assert found.ran == (1,) * BLOCKS
    assert found.inside_bytes > 0


def test_watching_leaves_everything_as_it_was():
    model = CASES["norms"].model()
    data = CASES["norms"].input()
    other = copy.deepcopy(model)
    torch.manual_seed(0)
    wanted = torch.rand(())
    torch.manual_seed(0)
    applied = strategies.apply(model, "every_layer", example=data, check=True)
    assert torch.equal(torch.rand(()), wanted)
    assert all(p.grad is None for p in model.parameters())
    for one, two in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(one, two)
    assert_same(step(model, data), step(other, data))
    applied.undo()


class OtherBits(Small):
    """Its weight's gradient has other last bits each time, and perhaps more."""

    def __init__(self, steps, more=0.0):
        super().__init__()

        def scaled(gradient):
            steps.append(len(steps) + 1)
            return gradient * (1 + 2**-23 * len(steps) + (more if len(steps) > 2 else 0))

        next(self.parameters()).register_hook(scaled)


def test_a_check_is_as_strict_as_the_model_is_with_itself():
    """Kernels that add up in any order give other bits without a strategy, too."""
    steps = [[] for _ in range(4)]
    model = nn.Sequential(*map(OtherBits, steps))
    strategies.apply(model, "every_layer", example=ROWS, check=True)
    assert steps == [[1, 2, 3]] * 4
    wrong = nn.Sequential(*(OtherBits([], 1e-4) for _ in range(4)))
    with pytest.raises(Unsupported, match="on the example the gradient of 0"):
        strategies.apply(wrong, "every_layer", example=ROWS, check=True)


class Turned(nn.Module):
    """With a parameter of complex numbers, and no other."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.ones(WIDTH, dtype=torch.complex64))

    def forward(self, x):
        return (x * self.turn).real.tanh()


def test_a_check_of_a_model_of_complex_numbers():
    model = nn.Sequential(*(Turned() for _ in range(4)))
    strategies.apply(model, "every_layer", example=ROWS, check=True)
    assert all(torch.equal(block.turn, torch.ones_like(block.turn)) for block in model)


SEEN = []


class Hidden(Small):
    """Counts where nobody looks, so that a recompute gives something else."""

    def forward(self, x):
        SEEN.append(x.shape)
        return torch.tanh(super().forward(x) / len(SEEN)).exp()


COMPARED = r"on the example the (loss|gradient of .*) is"
EXAMINED = r"Hidden, run again, computes something else than it did"


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)", "offload"])
@pytest.mark.parametrize("sentence", [COMPARED, EXAMINED])
def test_a_check_finds_a_gradient_that_is_another_and_undoes(spec, sentence, monkeypatch):
    if sentence is COMPARED:  # by what nothing before it found
        monkeypatch.setattr(state, "is_examined", lambda block: True)
    model = nn.Sequential(*(Hidden() for _ in range(4)))
    before = [dict(vars(module)) for module in model.modules()]
    with pytest.raises(Unsupported, match=sentence):
        strategies.apply(model, spec, example=ROWS, check=True)
    assert [dict(vars(module)) for module in model.modules()] == before
    with pytest.raises(ValueError, match="under no strategy"):
        strategies.undo(model)


@pytest.mark.parametrize(
    "spec", ["every_layer", "sqrt", "compressed(codec=int8)", "optimal(budget='98%')"]
)
def test_a_check_of_what_is_right_passes(spec):
    case = CASES["gpt"]
    model = case.model()
    with strategies.apply(model, spec, example=case.input(), check=True) as applied:
        assert "they save" in applied.notes[0]


def test_a_check_needs_an_example():
    with pytest.raises(ValueError, match="needs example="):
        strategies.apply(Loop(), "every_layer", check=True)


# Without an example.


def steps(model, count=2):
    """The warnings of each training step."""
    caught = []
    for _ in range(count):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            model(ROWS).sum().backward()
        caught.append([str(warning.message) for warning in found])
    return caught


IDLE = "in the first training step no block of idle ran with gradients"


@pytest.mark.parametrize("spec", ["every_layer", "sqrt(keep_last=False)", "recursive", "offload"])
def test_a_tower_that_does_not_run_is_said_once(spec, uncompiled):
    model = Idle()
    strategies.apply(model, spec)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        model(ROWS)
    model.eval()(ROWS).sum().backward()
    model.train()
    for each in (model, copied, copy.deepcopy(model)):
        first, second = steps(each)
        assert len(first) == 1
        assert IDLE in first[0]
        assert not second
    assert not steps(copy.deepcopy(model))[0]


def test_replicas_say_it_once(uncompiled):
    model = Idle()
    strategies.apply(model, "every_layer")
    replicas = [model._replicate_for_data_parallel() for _ in range(2)]
    for replica in replicas:
        for name, child in model.named_modules():
            if name:
                parent, _, key = name.rpartition(".")
                copied = child._replicate_for_data_parallel()
                copied._parameters = dict(child._parameters)
                replica.get_submodule(parent)._modules[key] = copied
    assert [len(each) for replica in replicas for each in steps(replica, 1)] == [1, 0]


class Dropped(Loop):
    """Leaves its first blocks out in the first step, as LayerDrop may."""

    def forward(self, x):
        for block in self.h[3:]:
            x = block(x)
        return x


class Frozen(Idle):
    """The tower that is not trained runs without gradients."""

    def __init__(self):
        super().__init__()
        self.idle.requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            for block in self.idle:
                x = block(x)
        return super().forward(x)


class Direct(Loop):
    """Goes around the modules' calls."""

    def forward(self, x):
        for block in self.h:
            x = block.forward(x)
        return x


@pytest.mark.parametrize("build", [Loop, Dropped, Frozen, Direct])
@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)", "none"])
def test_nothing_is_said_where_a_part_runs(build, spec, uncompiled):
    model = build()
    strategies.apply(model, spec)
    assert steps(model) == [[], []]


@pytest.mark.parametrize("variant", ["textbook", "attention_core"])
@pytest.mark.parametrize("name", ["gpt", "core", "encoder"])
def test_nothing_is_said_where_parts_of_blocks_run(name, variant, uncompiled):
    model = CASES[name].model()
    strategies.apply(model, "selective", variant=variant)
    model(CASES[name].input()).sum().backward()  # a warning is an error here


def test_with_an_example_the_notes_say_it(uncompiled):
    model = Idle()
    strategies.apply(model, "every_layer", example=ROWS)
    assert steps(model) == [[], []]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # a compiler's
@pytest.mark.parametrize("way", ["model", "blocks"])
def test_nothing_is_said_of_what_is_compiled(way):
    torch._dynamo.reset()
    model = Loop()
    strategies.apply(model, "every_layer")
    for each in [model] if way == "model" else model.h:
        each.compile(backend="aot_eager")
    model(ROWS).sum().backward()
