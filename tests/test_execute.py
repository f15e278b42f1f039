"""The executor: any plan, on any container, runs what it says and nothing else."""

import copy
import gc

import pytest
import torch
from effort import examples
from hypothesis import given
from hypothesis import strategies as st
from models import (
    BLOCKS,
    CASES,
    WIDTH,
    Halved,
    LeftEarly,
    Loop,
    NormBlock,
    Shared,
    Skipping,
    Small,
    Stage,
    assert_same,
    chain_of,
    counted,
    loss_of,
    nested_plans,
    seed,
    step,
)
from torch import nn
from torch.nn.utils import prune

import strategies
from strategies import Unsupported, find_chain
from strategies.execution import layout
from strategies.execution.state import BlockState
from strategies.execution.statistics import FrozenStatistics
from strategies.execution.undo import undo_all
from strategies.profiling.ledger import Ledger
from strategies.schedules import plan as plans
from strategies.storage import Disk, Storage

ROWS = torch.linspace(-2, 2, 3 * WIDTH).view(3, WIDTH)


def check_plan(model, plan):
    """Same step as without a plan, and as many forwards as the plan says."""
    chain = strategies.find_chain(model)
    wanted = step(copy.deepcopy(model), ROWS)
    undos = layout.install(chain, plan)
    with counted(chain.blocks) as counts:
        found = step(model, ROWS)
    undo_all(undos)
    assert_same(found, wanted)
    assert counts == plans.forward_counts(plans.split(plan, chain.borders), len(chain))


# Counts.


@pytest.mark.parametrize("n_blocks", range(2, 18))
@pytest.mark.parametrize(
    "spec", ["none", "every_layer", "every_k(k=2)", "every_k(k=4)", "every_k(k=8)", "sqrt"]
)
def test_forwards_of_each_block(spec, n_blocks):
    model = chain_of(n_blocks)
    with strategies.apply(model, spec) as applied, counted(list(model)) as counts:
        step(model, ROWS)
        assert counts == plans.forward_counts(applied.plan, n_blocks)
        assert sum(counts) <= 2 * n_blocks
    if spec == "sqrt" and n_blocks == 16:
        assert counts == [2] * 12 + [1] * 4
    if spec == "every_layer":
        assert counts == [2] * n_blocks


def test_one_block():
    model = nn.ModuleList([Stage()])
    chain = strategies.Chain((model,), ("",), (model[0],), ("0",), ())
    for spec, count in (("every_layer", 2), ("every_k(k=2)", 2), ("sqrt", 1), ("none", 1)):
        undos = layout.install(chain, strategies.get(spec).plan(chain))
        with counted(list(chain.blocks)) as counts:
            chain.blocks[0](ROWS).sum().backward()
        undo_all(undos)
        assert counts == [count]


@given(st.integers(2, 8).flatmap(lambda n: nested_plans(0, n)))
def test_any_plan_of_a_sequential(plan):
    n_blocks = len(list(plans.leaves(plan)))
    check_plan(chain_of(n_blocks, Small), plan)


@examples(50)
@given(nested_plans(0, BLOCKS))
def test_any_plan_of_a_list(plan):
    seed(0)
    check_plan(Loop(), plan)


@examples(50)
@given(nested_plans(0, 4))
def test_any_plan_updates_running_statistics_once(plan):
    model = chain_of(4, NormBlock)
    check_plan(model, plan)
    assert all(block.norm.num_batches_tracked == 1 for block in model)


@examples(30)
@given(nested_plans(0, BLOCKS))
def test_any_plan_of_a_block_that_repeats(plan):
    seed(0)
    model = Shared()
    block = model.h[0]
    wanted = step(copy.deepcopy(model), ROWS)
    undos = layout.install(strategies.find_chain(model), plan)
    with counted([block]) as counts:
        found = step(model, ROWS)
    undo_all(undos)
    assert_same(found, wanted)
    assert counts == [sum(plans.forward_counts(plan, BLOCKS))]


class Two(nn.Module):
    """Two lists with something between them."""

    def __init__(self):
        super().__init__()
        self.a = nn.ModuleList([Small() for _ in range(3)])
        self.b = nn.ModuleList([Small() for _ in range(3)])

    def forward(self, x):
        for block in self.a:
            x = block(x)
        x = x * 0.5
        for block in self.b:
            x = block(x)
        return x


@examples(50)
@given(nested_plans(0, 6))
def test_any_plan_is_cut_between_containers(plan):
    seed(0)
    check_plan(Two(), plan)


def test_a_plan_must_fit_the_chain():
    chain = strategies.find_chain(chain_of(3))
    with pytest.raises(ValueError, match="blocks 0 to 2 once each"):
        layout.install(chain, (0, 1))


# What a model may do with its blocks.


class Inner(Small):
    """A block that runs another one, or itself, within its own forward."""

    def __init__(self):
        super().__init__()
        self.inner = []  # no module of its own

    def forward(self, x, depth=0):
        x = super().forward(x)
        return self.inner[depth](x, depth + 1) if depth < len(self.inner) else x


def within(way):
    """The first block runs all; each runs its successor as well; each runs itself twice more."""
    model = Loop()
    model.h = nn.ModuleList([Inner() for _ in range(BLOCKS)])
    blocks = list(model.h)
    for number, block in enumerate(blocks):
        match way:
            case "all":
                block.inner = blocks[1:] if number == 0 else []
            case "the next":
                block.inner = blocks[number + 1 : number + 2]
            case "itself":
                block.inner = [block, block]
    return model


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)", "recursive"])
@pytest.mark.parametrize("way", ["all", "the next", "itself"])
def test_blocks_that_blocks_run(way, spec):
    model = within(way)
    wanted = step(model, ROWS, backwards=2)
    strategies.apply(model, spec)
    assert_same(step(model, ROWS, backwards=2), wanted)


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)"])
def test_a_container_stays_what_it_is(spec):
    model = Loop()
    before = [dict(vars(module)) for module in (model, model.h)]
    blocks, text = list(model.h), repr(model)
    with strategies.apply(model, spec):
        assert type(model.h) is nn.ModuleList
        assert list(model.h) == list(model.h.children()) == blocks
        assert vars(model.h) == before[1]
        assert repr(model) == text
        assert "forward" in vars(model.h[0])
    assert not any(
        set(vars(block)) & {"forward", "_replicate_for_data_parallel"} for block in blocks
    )
    assert vars(model) == before[0]


def test_blocks_that_are_kept_are_left_alone():
    model = Loop()
    undos = layout.install(strategies.find_chain(model), (0, (1, 2), 3, (4,)))
    assert ["forward" in vars(block) for block in model.h] == [False, True, True, False, True]
    undo_all(undos)


def test_a_forward_of_the_instance_is_kept_and_put_back():
    model = Loop()
    called = []

    def forward(x):
        called.append(x)
        return x * 2

    model.h[2].forward = forward
    wanted = step(model, ROWS)
    called.clear()
    with strategies.apply(model, "every_layer"):
        assert_same(step(model, ROWS), wanted)
    assert len(called) == 1  # it saves nothing, so recompute has stopped before it
    assert model.h[2].forward is forward


def recorded(model, seen):
    """Every block's inputs and outputs, in the order in which hooks see them."""
    for index, block in enumerate(model.h):
        block.register_forward_pre_hook(lambda _, args, n=index: seen.append((n, *args)))
        block.register_forward_hook(lambda _, __, output, n=index: seen.append((n, output)))


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)", "recursive"])
def test_hooks_of_a_block_see_what_they_see_without(spec):
    """Each once in forward, and nothing of what runs again."""
    model, seen = Loop(), []
    recorded(model, seen)
    step(model, ROWS)
    wanted, seen[:] = list(seen), []
    strategies.apply(model, spec)
    step(model, ROWS)
    assert [number for number, _ in seen] == [number for number, _ in wanted]
    assert all(map(torch.equal, *([tensor for _, tensor in each] for each in (seen, wanted))))


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)", "recursive"])
def test_what_hooks_of_a_block_change_stays_changed(spec):
    """Its arguments, its output, its attributes, with random numbers; also of norms in hooks."""
    model = Loop()
    for block in model.h:
        block.register_forward_pre_hook(lambda _, args: (args[0] + torch.randn(WIDTH),))
        block.register_forward_hook(lambda _, __, output: output * torch.rand(1))
    for module in (m for m in model.modules() if isinstance(m, nn.Linear)):
        prune.random_unstructured(module, "weight", 0.3)
    wanted = step(model, ROWS)
    strategies.apply(model, spec)
    assert_same(step(model, ROWS), wanted)


def test_hooks_that_gather_parameters_run_again():
    """A library's, that are nowhere between two runs of the block."""
    model, runs = Loop(), []
    wanted = step(model, ROWS)
    whole = {parameter: parameter.data for parameter in model.h.parameters()}

    def gather(block, *_):
        runs.append(block)
        for parameter in block.parameters():
            parameter.data = whole[parameter]

    def scatter(block, *_):
        for parameter in block.parameters():
            parameter.data = parameter.data.new_empty(0)

    strategies.apply(model, "every_k(k=2)")
    for block in model.h:
        scatter(block)
        block.register_forward_pre_hook(gather)
        block.register_forward_hook(scatter)
        block.register_full_backward_pre_hook(gather)
    assert_same(step(model, ROWS), wanted)
    assert len(runs) > 2 * BLOCKS


def test_parts_of_a_list():
    seed(0)
    model, reference = Halved(), copy.deepcopy(CASES["loop"].model())
    reference.load_state_dict(model.state_dict())
    wanted = step(reference, ROWS)
    for text in ("[0 1 2] [3 4]", "[0 1] [2] 3 [4]"):
        undos = layout.install(strategies.find_chain(model), plans.parse(text))
        assert_same(step(model, ROWS), wanted)
        undo_all(undos)
    # Nothing happens between the parts, so even a group across them may run.
    undos = layout.install(strategies.find_chain(model), plans.parse("[0 1] [2 3] 4"))
    assert_same(step(model, ROWS), wanted)


class Parts(nn.Module):
    """Runs the two halves of a Sequential one after the other."""

    def __init__(self):
        super().__init__()
        self.blocks = chain_of(4)

    def forward(self, x):
        return self.blocks[2:](self.blocks[:2](x))


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)", "every_k(k=3)"])
def test_parts_of_a_sequential(spec):
    model = Parts()
    wanted = step(model, ROWS)
    with strategies.apply(model, spec):
        assert_same(step(model, ROWS), wanted)


BETWEEN = [
    *("pairs-unpacked", "pairs-indexed", "pairs-perhaps", "first-row", "scaled", "activated"),
    *("method", "zipped", "collected", "reversed"),
]


@pytest.mark.parametrize("name", BETWEEN)
@examples(20)
@given(plan=nested_plans(0, BLOCKS))
def test_any_plan_of_a_model_that_does_more_than_run_its_blocks(name, plan):
    case = CASES[name]
    model = case.model()
    wanted = step(case.model(), case.input())
    undos = layout.install(strategies.find_chain(model), plan)
    assert_same(step(model, case.input()), wanted)
    undo_all(undos)


class Busy(nn.Module):
    """Draws, writes to what blocks return, skips blocks at random, and calls some directly."""

    def __init__(self):
        super().__init__()
        self.h = nn.ModuleList([Small() for _ in range(BLOCKS)])

    def forward(self, x):
        skips = x
        for index, block in enumerate(self.h):
            if torch.rand(()) < 0.2:
                continue
            x = block.forward(x) if index % 2 else block(x)
            if index == 1:
                x = nn.functional.dropout(x, 0.1)
            if index in (0, 3):
                x += 0.5 * skips
            if torch.rand(()) < 0.5:
                skips = x
        return x


@examples(40)
@given(plan=nested_plans(0, BLOCKS), number=st.integers(0, 9))
def test_any_plan_of_a_model_that_draws_writes_and_skips(plan, number):
    seed(number)
    model = Busy()
    data = torch.randn(3, WIDTH)
    wanted = step(copy.deepcopy(model), data, passes=3)
    undos = layout.install(strategies.find_chain(model), plan)
    assert_same(step(model, data, passes=3), wanted)
    undo_all(undos)


def saved_bytes(model):
    """What a forward leaves for backward, beyond parameters and input."""
    ledger = Ledger()
    data = ROWS.clone()
    ledger.adopt([*model.parameters(), data])
    with ledger:
        ledger.mark("start")
        loss = loss_of(model(data))
        ledger.mark("forward")
    start, end = ledger.marks
    loss.backward()
    return end.alive_bytes - start.alive_bytes


def test_a_group_keeps_its_boundary_alone():
    model = CASES["loop"].model()
    none, one = saved_bytes(model), saved_bytes(nn.Linear(WIDTH, WIDTH))
    with strategies.apply(model, "every_k(k=5)"):
        assert saved_bytes(model) == one < none  # its output, and what the loss keeps


@pytest.mark.parametrize("first", range(BLOCKS))
def test_a_group_that_begins_late_or_ends_early(first):
    model = CASES["loop"].model()
    whole = list(model.h)

    def forward(x):
        for block in whole[:first] + whole[first + 1 :]:
            x = block(x)
        return x

    model.forward = forward
    wanted = step(model, ROWS)
    undos = layout.install(strategies.find_chain(model), (tuple(range(BLOCKS)),))
    for _ in range(2):
        assert_same(step(model, ROWS), wanted)
    undo_all(undos)


def test_a_block_left_out_of_a_group():
    model = Skipping()
    wanted = step(copy.deepcopy(model), ROWS)
    for spec in ("every_k(k=3)", "every_k(k=5)", "recursive"):
        with strategies.apply(model, spec):
            found = step(model, ROWS)
            assert_same(found, wanted)
            assert found.gradients["h.1.linear.weight"] is None


def test_a_group_that_is_left_early():
    model = LeftEarly()
    wanted = step(model, ROWS)
    for spec in ("every_k(k=4)", "every_k(k=5)"):
        with strategies.apply(model, spec):
            assert_same(step(model, ROWS), wanted)


def alive():
    gc.collect()
    return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())


@pytest.mark.parametrize("spec", ["every_k(k=3)", "every_k(k=5)", "recursive"])
def test_a_group_that_is_left_open_ends_with_the_forward(spec):
    model = LeftEarly()
    step(model, ROWS)
    before = alive()
    with strategies.apply(model, spec):
        step(model, ROWS)
        assert alive() == before


class Alternating(nn.Module):
    """Two blocks in turn, the first twice; a forward that fails between leaves no trace."""

    def __init__(self):
        super().__init__()
        a, b, c = (Small() for _ in range(3))
        self.h = nn.ModuleList([a, b, a, c])
        self.fails = False

    def forward(self, x):
        for index, block in enumerate(self.h):
            if self.fails and index == 1:
                raise KeyError
            x = block(x)
        return x


def test_a_forward_that_failed_leaves_a_block_that_repeats_in_its_first_place():
    model = Alternating()
    block = model.h[0]
    strategies.apply(model, strategies.get("every_k(k=3)"))
    model.fails = True
    with pytest.raises(KeyError):
        model(ROWS)
    model.fails = False
    with counted([block]) as counts:
        step(model, ROWS)
    assert counts == [4]  # twice, and both again: [0 1 2] 3


def test_a_gradient_switched_on_within_a_group():
    model = CASES["loop"].model()
    first, second = list(model.h)[:2]
    results = []
    for spec in ("none", "every_k(k=2)"):
        with strategies.apply(model, spec):
            seed(2)
            with torch.no_grad():
                x = first(ROWS)
            second(x).sum().backward()
            results.append(second.linear.weight.grad.clone())
            model.zero_grad()
    assert torch.equal(*results)


def test_a_forward_that_is_replaced_between_forward_and_backward_is_an_error_in_words():
    model = CASES["loop"].model()
    strategies.apply(model, "every_k(k=2)")
    loss = model(ROWS).sum()
    model.h[0].forward = lambda x: x
    with pytest.raises(Unsupported, match="Small has another forward than when"):
        loss.backward()


# How blocks are called.


class Named(nn.Module):
    """A block whose parameters are named as the machinery's own might be."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, call=0.0, modules=0.0, debug=0.0, function=0.0, boundary=0.0, group=0.0):
        return torch.tanh(self.linear(x)) + call + modules + debug + function + boundary + group


class Calls(nn.Module):
    """Calls its blocks as told."""

    def __init__(self, block):
        super().__init__()
        self.h = nn.ModuleList([block() for _ in range(4)])
        self.positional, self.named, self.keyword = (), {}, None

    def forward(self, x):
        for block in self.h:
            if self.keyword is None:
                x = block(x, *self.positional, **self.named)
            else:
                x = block(**self.named, **{self.keyword: x})
        return x


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)", "sqrt", "offload(over=sqrt)"])
@pytest.mark.parametrize("keyword", [None, "x"])
def test_names_of_arguments_do_not_matter(spec, keyword):
    model = Calls(Named)
    model.named = {"call": 1.0, "modules": 2.0, "debug": 3.0, "function": 4.0, "boundary": 5.0}
    model.named["group"] = torch.ones(WIDTH, requires_grad=True)
    model.keyword = keyword
    wanted = step(model, ROWS)
    extra = model.named["group"].grad
    model.named["group"].grad = None
    with strategies.apply(model, spec):
        assert_same(step(model, ROWS), wanted)
    assert torch.equal(model.named["group"].grad, extra)


class Anything(Stage):
    """Declares nothing."""

    def forward(self, **kwargs):
        return super().forward(kwargs["x"]) + kwargs["shift"]


def test_of_undeclared_keywords_the_first_is_the_boundary():
    model = Calls(Anything)

    def forward(x):
        for block in model.h:
            x = block(x=x, shift=0.5)
        return x

    model.forward = forward
    wanted = step(model, ROWS)
    for spec in ("every_layer", "every_k(k=2)", "compressed(codec=bf16, over=sqrt)"):
        with strategies.apply(model, spec) as applied:
            found = step(model, ROWS)
            if applied.strategy.exact:
                assert_same(found, wanted)
            else:
                assert torch.equal(found.loss, wanted.loss)
                assert not torch.equal(
                    found.gradients["h.1.linear.weight"], wanted.gradients["h.1.linear.weight"]
                )


class Source(Stage):
    """Needs no input."""

    def forward(self):
        return self.linear.weight.tanh().sum()


@pytest.mark.parametrize("spec", ["every_layer", "offload"])
def test_a_block_without_arguments(spec):
    blocks = nn.ModuleList([Source(), Source()])
    model = nn.Module()
    model.h, model.forward = blocks, lambda x: sum(block() for block in model.h) * x
    wanted = step(model, ROWS)
    with strategies.apply(model, spec, blocks="h"):
        assert_same(step(model, ROWS), wanted)


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)"])
def test_arguments_that_require_gradients_get_them(spec):
    model = Calls(Small)
    shift = torch.ones(WIDTH, requires_grad=True)
    model.positional, model.named = (shift,), {"table": {"scale": shift * 0.9}}
    gradients = []
    for chosen in ("none", spec):
        model.named = {"table": {"scale": shift * 0.9}}
        with strategies.apply(model, chosen):
            step(model, ROWS)
        gradients.append(shift.grad)
        shift.grad = None
    assert torch.equal(*gradients)


class EachItsOwn(nn.Module):
    """Gives each block an argument of its own, some of which learn, one in a table."""

    def __init__(self):
        super().__init__()
        self.h = nn.ModuleList([Small() for _ in range(BLOCKS)])
        self.shifts = nn.Parameter(torch.linspace(-1, 1, BLOCKS * WIDTH).view(BLOCKS, WIDTH))

    def forward(self, x):
        for index, block in enumerate(self.h):
            x = block(x, self.shifts[index], table={"scale": self.shifts[index].exp()})
        return x


@examples(20)
@given(plan=nested_plans(0, BLOCKS))
def test_any_plan_of_blocks_with_arguments_of_their_own(plan):
    seed(0)
    model = EachItsOwn()
    wanted = step(model, ROWS)
    undos = layout.install(strategies.find_chain(model), plan)
    assert_same(step(model, ROWS), wanted)
    undo_all(undos)


# Statistics, randomness, memory.


def test_running_statistics_without_momentum_and_with_several_backwards():
    model = chain_of(4, NormBlock)
    for block in model:
        block.norm.momentum = None
    wanted = step(copy.deepcopy(model), ROWS, passes=3, backwards=2)
    strategies.apply(model, "every_k(k=2)")
    assert_same(step(model, ROWS, passes=3, backwards=2), wanted)
    assert all(block.norm.num_batches_tracked == 3 for block in model)


def test_frozen_statistics_are_put_back_after_an_error():
    norm = nn.BatchNorm1d(WIDTH)
    buffers = dict(norm._buffers)

    def fail():
        frozen = FrozenStatistics([norm])
        with frozen:
            norm(ROWS)
            with frozen:  # a graph that is retained is run again within
                norm(ROWS)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(norm._buffers[name] is buffer for name, buffer in buffers.items())
    assert norm.num_batches_tracked == 0


def test_statistics_in_evaluation_mode_are_not_copied():
    norm = nn.BatchNorm1d(WIDTH).eval()
    state = BlockState(norm)
    met = state.begin()
    norm(ROWS)
    state.end(met)
    assert met.restore() is None
    norm.train()
    with met:
        assert not norm.training
    assert norm.training


def test_dropout_is_the_same_again_whatever_is_drawn_between():
    model = CASES["loop"].model()
    found = []
    for spec in ("none", "every_k(k=2)"):
        with strategies.apply(model, spec):
            model.zero_grad()
            seed(2)
            loss = model(ROWS).square().sum()
            torch.rand(17)
            loss.backward()
            found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)", "selective"])
def test_a_failure_inside_a_block_reaches_the_caller_and_harms_nothing(spec):
    case = CASES["core"]
    model = case.model()
    wanted = step(case.model(), case.input())
    strategies.apply(model, spec)
    handle = model.h[1].mlp.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(case.input())
    handle.remove()
    assert_same(step(model, case.input()), wanted)


# Limits.


class Rectifies(nn.Module):
    """Writes to what it is given, and does not say so as `nn.ReLU(inplace=True)` does."""

    def forward(self, x):
        return x.relu_()


def test_an_input_changed_in_place_is_an_error_not_a_wrong_gradient():
    seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 8), Rectifies(), nn.Linear(8, 8), Rectifies())
    wanted = step(model, ROWS)
    with strategies.apply(model, "every_k(k=2)"):
        assert_same(step(model, ROWS), wanted)
    with (
        strategies.apply(model, "every_layer"),
        pytest.raises(Unsupported, match="Rectifies writes to one of its arguments in place"),
    ):
        step(model, ROWS)


def test_what_a_block_hands_on_unchanged_is_its_argument_still(tmp_path):
    """A nested frame would save it after the change, of a boundary that rests elsewhere."""
    seed(0)
    model = nn.Sequential(
        *(nn.Linear(WIDTH, 8), nn.Identity(), Rectifies(), nn.Linear(8, 8), nn.Linear(8, 8))
    )
    stored = Storage(tier=Disk(directory=str(tmp_path)))
    layout.install(find_chain(model), (0, ((1, 2), 3), 4), stored)
    with pytest.raises(Unsupported, match="Rectifies writes to one of its arguments in place"):
        step(model, ROWS)


def test_attention_that_is_no_module_is_checkpointed_once_a_block(checkpoints):
    case = CASES["gpt"]
    model = case.model()
    with strategies.apply(model, "selective(variant=attention_core)"):
        step(model, case.input())
    assert len(checkpoints) == BLOCKS
