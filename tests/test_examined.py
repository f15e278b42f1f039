"""What a recompute cannot see: its first result shows it, and is refused in words."""

import copy
import itertools

import pytest
import torch
from effort import few
from torch import nn

import strategies
from strategies.execution import examined

SPECS = ["every_layer", "every_k(k=2)", "sqrt", "offload(over=sqrt)"]
ROWS = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
under = pytest.mark.parametrize("spec", few(SPECS, 2))


class Block(nn.Module):
    """Scales what it computes by what ``scale`` says."""

    def __init__(self, scale):
        super().__init__()
        self.linear, self.scale = nn.Linear(6, 6), scale

    def forward(self, x):
        return torch.tanh(self.linear(x) * self.scale(self)).exp()


def net(scale, blocks=4):
    torch.manual_seed(0)
    return nn.Sequential(*(Block(scale) for _ in range(blocks)))


def gradients(model):
    torch.manual_seed(1)
    model.zero_grad()
    model(ROWS).mean().backward()
    return [parameter.grad for parameter in model.parameters()]


def counter():
    """A global number."""
    count = itertools.count(1)
    return lambda block: 1 / next(count)


def generator():
    """One that no block holds."""
    own = torch.Generator().manual_seed(0)
    return lambda block: torch.rand((), generator=own)


def shrunk():
    """A weight, past its version."""

    def scale(block):
        block.linear.weight.data.mul_(0.5)
        return 1.0

    return scale


@under
@pytest.mark.parametrize("unseen", [counter, generator, shrunk])
def test_what_nobody_can_see_is_refused_each_time(unseen, spec):
    model = net(unseen())
    strategies.apply(model, spec)
    for _ in range(2):
        with pytest.raises(strategies.Unsupported, match="Block, run again, computes something"):
            gradients(model)


@under
def test_a_block_is_examined_until_it_ran_again(spec):
    """Afterwards nothing is summed up; another model's blocks of the same class are."""
    model = net(lambda block: 1.0)
    strategies.apply(model, spec)
    gradients(model)
    states = [block.forward.state for block in model if "forward" in vars(block)]
    assert states[0].unexamined is None  # of a group, its first block stands for it
    strategies.apply(other := net(counter()), spec)
    with pytest.raises(strategies.Unsupported):
        gradients(other)


def test_values_that_change_places_are_seen():
    def turned(block):
        turned.calls += 1
        block.linear.weight.data = block.linear.weight.data.roll(turned.calls, 0)
        return 1.0

    turned.calls = 0
    model = net(turned)
    strategies.apply(model, "every_layer")
    with pytest.raises(strategies.Unsupported, match="run again"):
        gradients(model)


def test_room_that_an_operator_fills_later_is_not_compared():
    """``rrelu`` saves its noise before it draws it."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x):
            return torch.tanh(nn.functional.rrelu(self.linear(x), training=True))

    torch.manual_seed(0)
    model = nn.Sequential(Noisy(), Noisy())
    wanted = gradients(copy.deepcopy(model))
    strategies.apply(model, "every_layer")
    assert all(map(torch.equal, wanted, gradients(model)))


class Last(nn.Module):
    """Ends with an operator that saves the room for its noise before it draws it."""

    def __init__(self, end):
        super().__init__()
        self.linear, self.end = nn.Linear(6, 6), end

    def forward(self, x):
        return self.end(self.linear(x), x)


def rrelu(y, x):
    return nn.functional.rrelu(y, training=True)


def rrelu_in_place(y, x):
    return nn.functional.rrelu(y, training=True, inplace=True)


def rrelu_and_more(y, x):
    return x + nn.functional.rrelu(y, training=True)


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)", "recursive", "offload"])
@pytest.mark.parametrize("end", [rrelu, rrelu_in_place, rrelu_and_more])
def test_room_that_the_last_operator_fills_is_full_by_backward(end, spec):
    """PyTorch's own checkpoint takes for the noise what lay in memory."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Last(end) for _ in range(4)))
    untouched = copy.deepcopy(model)
    strategies.apply(model, spec)
    for _ in range(2):
        assert all(map(torch.equal, gradients(untouched), gradients(model)))


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)"])
def test_a_block_without_such_an_operator_does_not_run_to_its_end(spec):
    """The last product of a block saves what it reads, and need not run again."""
    ends = []

    def product(y, x):
        ends.append(torch.tanh(y) * x)
        return ends[-1]

    model = nn.Sequential(*(Last(product) for _ in range(4)))
    strategies.apply(model, spec)
    gradients(model)
    assert len(ends) == (4 if spec == "every_layer" else 6)  # one runs for the one behind it


def test_a_lossy_storage_gives_other_values_and_is_no_error():
    model = net(lambda block: 1.0)
    strategies.apply(model, "compressed(codec=int8)")
    assert all(gradient.isfinite().all() for gradient in gradients(model))


@under
@pytest.mark.parametrize("steps", [1, 3])
def test_rows_of_an_embedding_that_grew_too_long(spec, steps):
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.linear = nn.Embedding(4, 6, max_norm=0.5), nn.Linear(6, 6)

        def forward(self, x):
            return torch.tanh(self.linear(x) + self.rows(torch.arange(8) % 4))

    torch.manual_seed(0)
    model = nn.Sequential(*(Embedded() for _ in range(4)))
    untouched = copy.deepcopy(model)
    strategies.apply(model, spec)
    for _ in range(steps):
        assert all(map(torch.equal, gradients(untouched), gradients(model)))
    assert all(map(torch.equal, untouched.parameters(), model.parameters()))


class Shrinking(nn.Module):
    """Writes to its weight in forward; by one, in the first."""

    def __init__(self):
        super().__init__()
        self.linear, self.factor = nn.Linear(6, 6), 1.0

    def forward(self, x):
        with torch.no_grad():
            self.linear.weight.mul_(self.factor)
        return torch.tanh(self.linear(x)).exp()


@under
def test_a_parameter_that_is_written_to_is_kept_from_the_second_step_on(spec):
    model = nn.Sequential(*(Shrinking() for _ in range(4)))
    untouched = copy.deepcopy(model)
    strategies.apply(model, spec)
    for factor in (1.0, 0.5, 0.5):
        for block in (*model, *untouched):
            block.factor = factor
        assert all(map(torch.equal, gradients(untouched), gradients(model)))
    assert all(map(torch.equal, untouched.parameters(), model.parameters()))


class Cache:
    """Of a block; another one for each step."""

    def __init__(self, calls):
        self.calls = calls


@under
def test_an_object_that_took_the_place_of_another(spec):
    def scale(block):
        block.cache.calls += 1
        return 1 / block.cache.calls

    model = net(scale)
    untouched = copy.deepcopy(model)
    strategies.apply(model, spec)
    for calls in range(3):
        for block in (*model, *untouched):
            block.cache = Cache(calls)
        assert all(map(torch.equal, gradients(untouched), gradients(model)))


@under
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own
@pytest.mark.filterwarnings("ignore:.*nothing is saved there:RuntimeWarning")
@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp"])
def test_under_a_transform_blocks_run_as_they_are(spec, transform):
    """They have no hooks for saved tensors."""
    func = torch.func

    def results(model):
        values = {name: value.detach() for name, value in model.named_parameters()}

        def loss(values, x=ROWS):
            return func.functional_call(model, values, (x,)).mean()

        if transform == "grad":
            return list(func.grad(loss)(values).values())
        if transform == "jvp":
            return list(func.jvp(loss, (values,), (values,)))
        return list(func.vmap(func.grad(loss), in_dims=(None, 0))(values, ROWS).values())

    model = net(lambda block: 1.0)
    wanted = results(copy.deepcopy(model))
    strategies.apply(model, spec)
    assert all(map(torch.equal, wanted, results(model)))


def saved(values):
    return examined._Saved.of(BLOCK, values.requires_grad_())


BLOCK = nn.Identity()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [8, 4096])
def test_what_kernels_round_in_another_order_is_the_same(dtype, rows):
    values = torch.randn(rows, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    chosen = torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    signs = torch.randn(values.shape, generator=torch.Generator().manual_seed(2)).sign()
    nudged = (values.double() * (1 + signs * torch.finfo(dtype).eps)).to(dtype)
    assert saved(values) == saved(torch.where(chosen, nudged, values))
    drops = torch.rand(values.shape, generator=torch.Generator().manual_seed(3)) < 0.9
    with pytest.raises(strategies.Unsupported, match="Identity, run again, computes something"):
        saved(values.clone()) == saved(values * drops)  # noqa: B015 - compared as PyTorch does it
