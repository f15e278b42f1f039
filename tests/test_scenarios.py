"""What PyTorch's own tests ask of a checkpoint, asked of this executor.

Written from the behaviours that ``test/test_autograd.py`` and ``test/test_utils.py`` of PyTorch
name, not from their text: each scenario is a chain of blocks with one trait, and under every plan
it has to do what it does without one.
"""

import collections
import contextlib
import functools

import pytest
import torch
from effort import few
from models import assert_same, step
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import CheckpointError, set_checkpoint_early_stop

import strategies
from strategies.execution import layout
from strategies.schedules import plan as plans

SPECS = ("every_layer", "every_k(k=2)", "recursive")
BLOCKS, WIDTH = 4, 3
ROWS = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))

RUNS = collections.Counter()
"""How often each block of the test's models has run, by its number."""

under = pytest.mark.parametrize("spec", few([(spec,) for spec in SPECS], count=2))


@pytest.fixture(autouse=True)
def no_runs():
    RUNS.clear()


class Block(nn.Module):
    """``body(block, x, …)`` is the trait."""

    def __init__(self, body, number):
        super().__init__()
        self.linear, self.body, self.number = nn.Linear(WIDTH, WIDTH), body, number

    def forward(self, *args, **kwargs):
        RUNS[self.number] += 1  # not on the block: a recompute would meet it as forward did
        return self.body(self, *args, **kwargs)


class Chain(nn.Module):
    """Blocks in a row, called by ``call(block, x)``."""

    def __init__(self, body, call=None, around=contextlib.nullcontext):
        super().__init__()
        self.blocks = nn.ModuleList(Block(body, number) for number in range(BLOCKS))
        self.call, self.around = call or (lambda block, x: block(x)), around

    def forward(self, x):
        with self.around():
            for block in self.blocks:
                x = self.call(block, x)
        return x


def plain(block, x):
    return torch.tanh(block.linear(x)) * x


def pair(*args, **kwargs):
    """The same chain twice: as it is, and to be put under a strategy."""
    models = []
    for _ in range(2):
        torch.manual_seed(1)
        models.append(Chain(*args, **kwargs))
    return models


def assert_as_without(spec, *args, **kwargs):
    """Loss, outputs, gradients and random state are those of no strategy; twice."""
    with_steps = {name: kwargs.pop(name) for name in ("passes", "backwards") if name in kwargs}
    wanted, found = pair(*args, **kwargs)
    strategies.apply(found, spec)
    for _ in range(2):
        assert_same(step(found, ROWS, **with_steps), step(wanted, ROWS, **with_steps))
    return found


def runs():
    return [RUNS[number] for number in range(BLOCKS)]


# Early stop.


def with_tail(tails, block, x):
    """The tail saves nothing that backward needs."""
    x = plain(block, x)
    tails[block.number] += 1
    return x + 1


@pytest.mark.parametrize(("stop", "ends"), [(True, [1] * BLOCKS), (False, [2] * BLOCKS)])
def test_recomputation_ends_with_the_last_saved_tensor(stop, ends):
    tails = [0] * BLOCKS
    model = Chain(functools.partial(with_tail, tails))
    strategies.apply(model, "every_layer")
    with set_checkpoint_early_stop(stop):
        loss = model(ROWS).sum()
    loss.backward()
    assert (tails, runs()) == (ends, [2] * BLOCKS)


@under
def test_stopping_early_or_not_changes_no_bit(spec):
    wanted, found = pair(plain)
    strategies.apply(found, spec)
    with set_checkpoint_early_stop(False):
        assert_same(step(found, ROWS), step(wanted, ROWS))


def test_what_nothing_needs_is_not_recomputed():
    """Backward ends behind the last block."""
    model = Chain(plain).requires_grad_(False)
    tail = nn.Linear(WIDTH, 1)
    strategies.apply(model, "every_layer")
    tail(model(ROWS)).sum().backward()
    assert runs() == [1] * BLOCKS


# Nesting.


@pytest.mark.parametrize(
    ("plan", "again"),
    [
        ("[[0 1] [2 3]]", [2, 2, 1, 1]),  # the last group inside is there when the outer one ran
        ("[[0] [1 [2]] 3]", [2, 2, 2, 1]),
        ("[0 [1 [2 [3]]]]", [1, 1, 1, 1]),
        ("[[[[0] 1] 2] 3]", [4, 3, 2, 1]),
    ],
)
def test_groups_in_groups(plan, again):
    wanted, found = pair(plain)
    layout.install(strategies.find_chain(found), plans.parse(plan))
    assert_same(step(found, ROWS), step(wanted, ROWS))
    assert runs() == [2 + number for number in again]


@under
def test_a_checkpoint_inside_a_block(spec):
    def nested(block, x):
        return torch.utils.checkpoint.checkpoint(plain, block, x, use_reentrant=False).sin()

    assert_as_without(spec, nested)


@under
def test_two_checkpoints_inside_a_block(spec):
    def children(block, x):
        one = torch.utils.checkpoint.checkpoint(plain, block, x, use_reentrant=False)
        return one + torch.utils.checkpoint.checkpoint(torch.cos, one, use_reentrant=False)

    assert_as_without(spec, children)


@under
def test_a_backward_inside_a_forward(spec):
    """A block that follows its own gradient, graph and all."""

    def follow(block, x):
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(plain(block, inner).sum(), inner, create_graph=True)
        return plain(block, x) - gradient

    assert_as_without(spec, follow)


@under
def test_a_backward_inside_a_backward(spec):
    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                inner = x.detach().requires_grad_()
                inner.sin().sum().backward()
            return gradient * inner.grad

    assert_as_without(spec, lambda block, x: Again.apply(plain(block, x)))


# Arguments and outputs.


@under
def test_keywords(spec):
    def scaled(block, x, *, scale, add=None, name="none"):
        assert name == "some"
        return plain(block, x) * scale + add

    call = lambda block, x: block(x, scale=1.5, add=torch.ones(WIDTH), name="some")  # noqa: E731
    assert_as_without(spec, scaled, call)


@under
def test_outputs_that_are_no_tensors(spec):
    def described(block, x):
        return plain(block, x), {"number": block.number, "name": "block"}, None

    def call(block, x):
        out, facts, nothing = block(x)
        assert (facts, nothing) == ({"number": block.number, "name": "block"}, None)
        return out

    assert_as_without(spec, described, call)


@under
def test_inputs_that_are_no_tensors(spec):
    def body(block, x, facts, power, nothing):
        assert nothing is None
        return plain(block, x) ** power * facts["by"][0]

    assert_as_without(spec, body, lambda block, x: block(x, {"by": [0.5, "half"]}, 2, None))


@under
def test_a_detached_output_stays_detached(spec):
    def both(block, x):
        y = plain(block, x)
        return y, y.detach() * 2

    def call(block, x):
        y, constant = block(x)
        assert not constant.requires_grad
        return y * constant

    assert_as_without(spec, both, call)


@under
def test_a_part_that_is_detached_inside(spec):
    assert_as_without(spec, lambda block, x: plain(block, x) + plain(block, x.detach()))


@under
def test_no_input_needs_a_gradient(spec):
    wanted, found = pair(plain)
    strategies.apply(found, spec)
    for model in (wanted, found):
        model(ROWS).square().sum().backward()
    for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@under
def test_a_parameter_used_inside_and_outside(spec):
    def call(block, x):
        return block(x) @ block.linear.weight

    assert_as_without(spec, plain, call)


@under
def test_several_tensors_of_which_some_need_gradients(spec):
    def body(block, x, indices, constant):
        return plain(block, x)[:, indices] * constant

    assert_as_without(
        spec, body, lambda block, x: block(x, torch.tensor([2, 0, 1]), torch.full((3,), 0.7))
    )


# Several backwards.


@under
def test_a_graph_that_is_retained(spec):
    assert_as_without(spec, plain, backwards=3)


@under
def test_forwards_whose_gradients_add_up(spec):
    assert_as_without(spec, plain, passes=3)


@under
def test_a_graph_that_is_gone_is_an_error_as_it_is_without(spec):
    found = pair(plain)[1]
    strategies.apply(found, spec)
    loss = found(ROWS).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


@under
def test_backwards_of_parts_of_the_graph(spec):
    """From the middle, then from the end; of some parameters, then of all."""

    def gradients(model):
        seen = []
        handle = model.blocks[1].register_forward_hook(lambda *args: seen.append(args[-1]))
        with handle:
            loss = model(ROWS).square().sum()
        middle = torch.autograd.grad(
            seen[0].sum(), list(model.blocks[0].parameters()), retain_graph=True
        )
        last = torch.autograd.grad(loss, list(model.blocks[3].parameters()), retain_graph=True)
        loss.backward()
        return [*middle, *last, *(p.grad for p in model.parameters())]

    wanted, found = pair(plain)
    strategies.apply(found, spec)
    for one, other in zip(gradients(found), gradients(wanted), strict=True):
        assert torch.equal(one, other)


@under
def test_two_losses_of_one_forward(spec):
    wanted, found = pair(plain)
    strategies.apply(found, spec)
    for model in (wanted, found):
        out = model(ROWS)
        out.sum().backward(retain_graph=True)
        out.square().sum().backward()
    for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


# Contexts.


@under
def test_autocast_around_forward_alone(spec):
    around = functools.partial(torch.autocast, "cpu", torch.bfloat16)
    assert_as_without(spec, plain, around=around)


@under
def test_autocast_switched_off_inside(spec):
    def careful(block, x):
        with torch.autocast("cpu", enabled=False):
            return plain(block, x.float())

    around = functools.partial(torch.autocast, "cpu", torch.bfloat16)
    assert_as_without(spec, careful, around=around)


@contextlib.contextmanager
def doubles():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def attention_of(kernel):
    return lambda: sdpa_kernel(kernel)


def of_their_dtype(block, x):
    """What it makes decides in which dtype it computes."""
    return (plain(block, x) * torch.full((WIDTH,), 0.3)).float()


def of_their_kernel(block, x):
    heads = x.repeat(1, 8).view(1, 1, len(x), 8 * WIDTH)
    mixed = nn.functional.scaled_dot_product_attention(heads.sin(), heads.cos(), heads.tanh())
    return plain(block, mixed.view(len(x), 8, WIDTH).sum(1))


def of_their_algorithms(block, x):
    return plain(block, x) * (1 + torch.are_deterministic_algorithms_enabled())


AROUND = {
    "a default dtype": (of_their_dtype, doubles),
    "attention without flash": (of_their_kernel, attention_of(SDPBackend.MATH)),
    "deterministic algorithms": (of_their_algorithms, deterministic),
}


@under
@pytest.mark.parametrize("setting", AROUND)
def test_a_setting_around_forward_alone(setting, spec):
    body, around = AROUND[setting]
    assert_as_without(spec, body, around=around)


@under
@pytest.mark.parametrize("setting", AROUND)
def test_a_setting_around_one_block(setting, spec):
    """Of a group, say; and of later steps, though these blocks ran again by then."""
    body, around = AROUND[setting]

    def call(block, x):
        with around() if block.number == 2 else contextlib.nullcontext():
            return block(x)

    assert_as_without(spec, body, call)


@under
@pytest.mark.parametrize("backward", [contextlib.nullcontext, lambda: torch.device("cpu")])
def test_a_device_context_around_forward_alone(spec, backward):
    """What a block makes is on the context's device, again in backward, whatever is there."""
    wanted, found = pair(
        lambda block, x: plain(block, x) * torch.ones(WIDTH), around=lambda: torch.device("meta")
    )
    strategies.apply(found, spec)
    for model in (wanted.to("meta"), found.to("meta")):
        loss = model(ROWS.to("meta")).sum()
        with backward():
            loss.backward()
        assert all(p.grad.device.type == "meta" for p in model.parameters())


@under
def test_a_device_context_around_backward_alone(spec):
    """What a block makes is where it was in forward, as if there were none."""
    body = lambda block, x: plain(block, x) * torch.full((WIDTH,), 0.7)  # noqa: E731
    wanted, found = pair(body)
    strategies.apply(found, spec)
    for model in (wanted, found):
        loss = model(ROWS).sum()
        with torch.device("meta"):
            loss.backward()
    for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@under
def test_dropout(spec):
    assert_as_without(spec, lambda block, x: torch.dropout(plain(block, x), 0.5, train=True))


@under
def test_no_gradients_inside(spec):
    def body(block, x):
        with torch.no_grad():
            scale = plain(block, x).abs().mean()
        return plain(block, x) / scale

    assert_as_without(spec, body)


# Saved-tensor hooks of the user's own.


@under
def test_hooks_around_the_model(spec):
    assert_as_without(spec, plain, around=lambda: saved_tensors_hooks(_pack, _unpack))


def _pack(tensor):
    return tensor.detach().clone()


def _unpack(tensor):
    return tensor


@under
def test_hooks_inside_a_block(spec):
    packed, unpacked = [], []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor.detach().double()

    def unpack(tensor):
        unpacked.append(tensor.shape)
        return tensor.float()

    def body(block, x):
        with saved_tensors_hooks(pack, unpack):
            return plain(block, x)

    assert_as_without(spec, body)
    assert packed
    assert unpacked


@under
@pytest.mark.parametrize("inside", [True, False])
def test_saving_on_the_host(spec, inside):
    def body(block, x):
        with save_on_cpu() if inside else contextlib.nullcontext():
            return plain(block, x)

    around = contextlib.nullcontext if inside else save_on_cpu
    assert_as_without(spec, body, around=around)


# Saved tensors.


class Twice(torch.autograd.Function):
    """Looks at what it saved two times."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] + 0 * ctx.saved_tensors[0]).exp()


@under
def test_a_function_that_unpacks_twice_is_told_so(spec):
    """As it is around PyTorch's own checkpoint; without one, it works."""
    wanted, found = pair(lambda block, x: Twice.apply(block.linear(x)))
    strategies.apply(found, spec)
    wanted(ROWS).sum().backward()
    with pytest.raises(CheckpointError, match="already unpacked once"):
        found(ROWS).sum().backward()


@under
def test_a_saved_tensor_that_is_looked_at_before_backward(spec):
    """By the graph's node, twice; then backward."""
    wanted, found = pair(lambda block, x: block.linear(x).exp())
    strategies.apply(found, spec)
    for model in (wanted, found):
        out = model(ROWS)
        one, two = out.grad_fn._saved_result, out.grad_fn._saved_result
        assert torch.equal(one, two)
        assert torch.equal(one, out)
        out.sum().backward()
    for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@under
def test_frames_of_different_sizes(spec):
    """Blocks save more the later they come, and otherwise in every step."""
    steps = []

    def body(block, x):
        for _ in range(1 + block.number + len(steps) % 2):
            x = plain(block, x)
        return x

    assert_as_without(spec, body)
    steps.append(1)
    assert_as_without(spec, body)


@under
def test_a_block_that_saves_nothing(spec):
    def body(block, x):
        return x + 1 if block.number % 2 else plain(block, x)

    assert_as_without(spec, body)


@under
def test_parameters_are_themselves_when_a_block_runs_again(spec):
    seen = []

    def body(block, x):
        seen.append((block.number, id(block.linear.weight)))
        return plain(block, x)

    model = Chain(body)
    strategies.apply(model, spec)
    model(ROWS).sum().backward()
    assert len(seen) > BLOCKS
    assert set(seen) == {(b.number, id(b.linear.weight)) for b in model.blocks}


# Exceptions.


def failing(when, block, x):
    out = plain(block, x)
    if block.number == 2 and RUNS[2] == when:
        raise KeyError("planted")
    return torch.tanh(out)


@under
@pytest.mark.parametrize("when", [1, 2])
def test_an_exception_reaches_the_user_and_harms_no_later_step(spec, when):
    """In forward, or when the block runs again."""
    wanted, found = pair(functools.partial(failing, when))
    strategies.apply(found, spec)
    with pytest.raises(KeyError, match="planted"):
        found(ROWS).sum().backward()
    assert RUNS[2] == when
    assert_same(step(found, ROWS), step(wanted, ROWS))


@under
def test_an_exception_in_backward(spec):
    wanted, found = pair(plain)
    strategies.apply(found, spec)
    handle = found.blocks[1].linear.weight.register_hook(lambda g: 1 / 0)
    with handle, pytest.raises(ZeroDivisionError):
        found(ROWS).sum().backward()
    assert_same(step(found, ROWS), step(wanted, ROWS))


@under
@pytest.mark.parametrize(
    ("kind", "error"), [("fewer", CheckpointError), ("another shape", strategies.Unsupported)]
)
def test_a_recomputation_of_something_else_is_an_error(spec, kind, error):
    def moody(block, x):
        again = RUNS[block.number] > 1
        if kind == "fewer" and again:
            return block.linear(x)
        wide = x.repeat(2, 1) if again else x
        return torch.tanh(torch.tanh(block.linear(wide)))[: len(x)]

    model = Chain(moody)
    strategies.apply(model, spec)
    with pytest.raises(error):
        model(ROWS).sum().backward()
