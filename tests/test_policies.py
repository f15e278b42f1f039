"""Op policies: what they keep, what they never keep, and that gradients stay what they are."""

import copy

import pytest
import torch
from models import assert_same, no_checkpoint, seed, step
from torch import nn
from torch.nn import functional as F

import strategies
from strategies import Unsupported
from strategies.execution import block_modes, op_policies
from strategies.execution.dispatch import can_be_kept, is_random
from strategies.execution.op_policies import OpPolicy
from strategies.profiling.ledger import Ledger
from strategies.profiling.profiler import profile_chain
from strategies.profiling.step import ExampleStep
from strategies.schedules.modes import keep, kept_by
from strategies.schedules.schedule import Schedule

aten = torch.ops.aten
BATCH = torch.linspace(-1, 1, 16 * 8).view(16, 8)
FEATURE = 16 * 4  # bytes of one feature of the batch
# A block dispatches: t, addmm, gelu, (twice native_dropout,) t, addmm, relu or relu_, add.
UP, GELU = 1, 2


class Block(nn.Module):
    """Products, views, random numbers, and perhaps an operator that writes in place."""

    def __init__(self, *, dropout=0.0, inplace=False):
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.dropout, self.inplace = dropout, inplace

    def forward(self, x):
        y = F.gelu(self.up(x))
        for _ in range(2 if self.dropout else 0):
            y = torch.native_dropout(y, self.dropout, self.training)[0]
        return x + F.relu(self.down(y), inplace=self.inplace)


class Stack(nn.Module):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(**options) for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def under(model, name):
    blocks = dict(enumerate(model.blocks))
    op_policies.install(blocks, dict.fromkeys(blocks, name), list(blocks.values()))
    return model


def profile_of(model, **options):
    return profile_chain(ExampleStep(model, BATCH), strategies.find_chain(model), **options)


@pytest.fixture(params=sorted({op_policies.SAYS_OUTPUT, False}))
def of_pytorch(request, monkeypatch):
    """Whether it says what an operator returned, which 2.9 does not."""
    monkeypatch.setattr(op_policies, "SAYS_OUTPUT", request.param)


@pytest.mark.parametrize("name", ["products", keep([UP]), keep([GELU]), keep([UP, GELU])])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradients_are_those_of_no_policy(name, dropout, of_pytorch):
    wanted = step(Stack(dropout=dropout), BATCH)
    assert_same(step(under(Stack(dropout=dropout), name), BATCH), wanted)


@pytest.mark.parametrize(
    ("name", "features"),
    [(keep([UP]), 32), (keep([UP, GELU]), 64), ("products", 32 + 8), (keep([0]), 0)],
)
def test_what_is_kept_is_alive_after_forward(name, features, of_pytorch):
    model, ledger = under(Stack(), name), Ledger()
    before_bytes = ledger.adopt([*model.parameters(), BATCH])
    with ledger:
        output = model.blocks[0](BATCH)
    assert ledger.alive_bytes - before_bytes == features * FEATURE + output.nbytes


@pytest.mark.parametrize(("name", "again"), [(keep([UP]), 1), ("products", 0), (keep([GELU]), 2)])
def test_what_is_kept_is_not_computed_again(name, again, of_pytorch):
    profile = profile_of(Stack(), assigned=[dict.fromkeys(range(3), name)])
    product_flops = 2 * 16 * 8 * 32
    # A recompute without a policy stops before the last operators whose outputs nothing needs.
    assert profile.blocks[1].last_recompute_flops == 2 * product_flops
    assert profile.blocks[1].mode(name).recompute_flops == again * product_flops


def test_an_output_that_is_written_to_later_cannot_be_kept(of_pytorch):
    with pytest.raises(RuntimeError) as refused:
        step(under(Stack(inplace=True), "products"), BATCH)
    assert op_policies.is_of_written(refused.value)
    assert not op_policies.is_of_written(RuntimeError("of something else"))
    profile = profile_of(Stack(inplace=True), modes=["products"], operators=True)
    assert [mode.name for mode in profile.blocks[0].modes] == ["all"]
    found = {op.name: op.keepable for op in profile.blocks[0].operators.operators}
    assert not found["relu_"]
    names = [(op.name, op.keepable) for op in profile.blocks[0].operators.operators]
    assert names[UP] == ("addmm", True)
    assert ("addmm", False) in names


def test_random_operators_run_again_in_order_or_not_at_all():
    profile = profile_of(Stack(dropout=0.5), operators=True)
    operators = profile.blocks[0].operators
    first, second = [i for i, op in enumerate(operators.operators) if op.random]
    assert operators.valid(frozenset({first, second}))
    assert operators.valid(frozenset({second}))
    assert not operators.valid(frozenset({first}))
    wanted = step(Stack(dropout=0.5), BATCH)
    assert_same(step(under(Stack(dropout=0.5), keep([second])), BATCH), wanted)
    with pytest.raises(Unsupported, match="draws random numbers after one whose output is kept"):
        step(under(Stack(dropout=0.5), keep([first])), BATCH)


def test_the_blocks_own_output_is_known_to_be_kept(of_pytorch):
    class Linear(nn.Linear):
        pass

    model = nn.Sequential(*(Linear(8, 8) for _ in range(3)))
    profile = profile_of(model, modes=["products"], operators=True)
    assert profile.blocks[0].mode("products").keeps_output
    assert not any(op.keepable for op in profile.blocks[0].operators.operators)


@pytest.mark.parametrize("name", ["products", keep([GELU]), keep([UP, GELU])])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_retained_graph_runs_backward_again(name, dropout, of_pytorch):
    wanted = step(Stack(dropout=dropout), BATCH, passes=2, backwards=3)
    assert_same(step(under(Stack(dropout=dropout), name), BATCH, passes=2, backwards=3), wanted)


def test_a_retained_graph_runs_backward_again_after_a_random_output_was_kept():
    operators = profile_of(Stack(dropout=0.5), operators=True).blocks[0].operators
    last = max(i for i, op in enumerate(operators.operators) if op.random)
    wanted = step(Stack(dropout=0.5), BATCH, backwards=2)
    assert_same(step(under(Stack(dropout=0.5), keep([last])), BATCH, backwards=2), wanted)


@pytest.mark.parametrize("name", ["products", keep([UP, GELU])])
def test_second_derivatives(name):
    found = []
    for model in (Stack(), under(Stack(), name)):
        weights = list(model.parameters())
        first = torch.autograd.grad(model(BATCH).square().mean(), weights, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), weights))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_copy_runs_its_own_weights():
    model = under(Stack(), "products")
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_same(step(copied, BATCH), step(Stack(), BATCH))


def test_without_gradients_nothing_is_kept():
    model = under(Stack(), "products")
    with no_checkpoint(), torch.no_grad():
        assert torch.equal(model(BATCH), Stack()(BATCH))


def test_names():
    assert keep([5, 2, 31]) == "keep(2,5,31)"
    assert kept_by("keep(2,5,31)") == {2, 5, 31}
    for other in ("products", "keep()", "keep(a)", "all", "keep(2,5", "keep(2, 5)"):
        assert kept_by(other) is None
    chain = strategies.find_chain(Stack())
    with pytest.raises(ValueError, match=r"a mode is one of all, core, products, keep\(2,5\) or"):
        block_modes.install(chain, {0: "everything"})


def test_a_mode_inside_a_group_is_refused():
    with pytest.raises(ValueError, match="block 1 is in a recompute group and runs in mode all"):
        Schedule((0, (1, 2)), ("products", "products", "all"))
    assert Schedule((0, (1, 2)), ("products", "all", "all")).render() == "0:products [1 2]"


def test_which_operators_can_be_kept():
    assert can_be_kept(aten.addmm.default)
    assert can_be_kept(aten.native_dropout.default)
    assert not can_be_kept(aten.view.default)
    assert not can_be_kept(aten.relu_.default)
    assert not can_be_kept(aten.add.out)


@pytest.mark.parametrize(
    ("func", "args", "random"),
    [
        (aten.native_dropout.default, (BATCH, 0.5, True), True),
        (aten.bernoulli_.float, (BATCH,), True),
        (aten.addmm.default, (BATCH, BATCH, BATCH), False),
        (aten._scaled_dot_product_flash_attention.default, (BATCH, BATCH, BATCH), False),
        (aten._scaled_dot_product_flash_attention.default, (BATCH, BATCH, BATCH, 0.1), True),
    ],
)
def test_which_calls_draw_random_numbers(func, args, random):
    assert is_random(func, args, {}) == random


def test_older_versions_of_pytorch_ask_again_in_recompute():
    class Asking:
        is_recompute = False
        op_output = None

    policy, asking = OpPolicy("products"), Asking()
    calls = [aten.mm.default, aten.relu.default, aten.bmm.default]
    first = [policy(asking, func) for func in calls]
    asking.is_recompute = True
    assert [policy(asking, func) for func in calls] == first
    assert len(set(first)) == 2


def test_numbers_drawn_under_a_policy_are_the_same():
    found = []
    for name in ("products", None):
        model = Stack(dropout=0.5)
        model = under(model, name) if name else model
        seed(1)
        model(BATCH).sum().backward()
        found.append(torch.get_rng_state())
    assert torch.equal(*found)


def test_what_a_policy_keeps_passes_no_hooks_of_the_user():
    """Kept outputs rest where they are on every version of PyTorch, with no warning of a choice."""
    packed = []

    def pack(tensor):
        packed.append(tuple(tensor.shape))
        return tensor

    expected = step(Stack(), BATCH)
    model = under(Stack(), "products")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        actual = step(model, BATCH)
    assert_same(actual, expected)
    assert (16, 8) in packed  # the boundaries do
    assert (16, 32) not in packed  # a product's output
