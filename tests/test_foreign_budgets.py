"""Budgets for models and loops that nobody here wrote: kinds of what once broke a promise."""

import dataclasses
import weakref

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import strategies
from strategies.contract.settled import NUMBERS_BYTES
from strategies.execution import block_modes, layout
from strategies.execution.undo import installed
from strategies.profiling import saved, trial
from strategies.profiling.ledger import Ledger
from strategies.profiling.profiler import profile_chain
from strategies.profiling.rates import nominal
from strategies.profiling.step import ExampleStep, preserved
from strategies.profiling.watched import How
from strategies.schedules import budget, plan
from strategies.schedules.interpreter import predict

WIDTH, ROWS = 16, 64


def after_forward_bytes(step, chain, schedule):
    """Alive when forward is over."""
    ledger = Ledger()
    ledger.adopt(step.resident_tensors())
    with installed(lambda: block_modes.install(chain, dict(enumerate(schedule.modes)))), ledger:
        loss = step.forward()
        alive_bytes = ledger.alive[-1]
        step.backward(loss)
    step.drop_gradients()
    return alive_bytes


class Dense(nn.Module):
    """Reads all that was made before it; its last product is no boundary if it is the last."""

    def __init__(self, number):
        super().__init__()
        self.norm = nn.LayerNorm(number * WIDTH)
        self.out = nn.Linear(number * WIDTH, WIDTH)

    def forward(self, *made):
        return self.out(torch.tanh(self.norm(torch.cat(made, 1))))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.ModuleList(Dense(number) for number in (1, 2))
        self.second = nn.ModuleList(Dense(number) for number in (2, 3))

    def forward(self, x):
        made = [x]
        for block in self.first:
            made.append(block(*made))
        made = [torch.cat([made[0], made[2]], 1)]  # not what the last block returned
        for block in self.second:
            made.append(block(*made))
        return torch.cat(made, 1).square().mean()


@pytest.mark.parametrize(
    "text", ["0 1:products 2 3", "0:products 1 2 3", "0 1:products 2:products 3:products"]
)
def test_an_output_that_only_a_policy_keeps_and_no_block_takes(text):
    model = DenseNet()
    step = ExampleStep(model, torch.randn(ROWS, WIDTH), keep_output=False)
    chain = strategies.find_chain(model, ["first", "second"])
    profile = profile_chain(step, chain, modes=["products"])
    schedule = strategies.Schedule.parse(text)
    alive_bytes = predict(profile, schedule).after_forward_bytes
    policies = sum(mode == "products" for mode in schedule.modes)
    states_bytes = policies * profile.group_bytes  # no tensors of operators
    assert alive_bytes - states_bytes == after_forward_bytes(step, chain, schedule)


class Penalized(nn.Module):
    """Of physics: the loss is of derivatives."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(4))
        )

    def forward(self, x):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.blocks(x).sum(), x, create_graph=True)
        return slope.square().sum()


class Interleaved(nn.Module):
    """Its lists run in turns."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.others = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x):
        for block, other in zip(self.blocks, self.others, strict=True):
            x = other(block(x))
        return x.sum()


@pytest.mark.parametrize(
    ("kind", "why"), [(Penalized, "runs backward within forward"), (Interleaved, "0, 2, 1, 3")]
)
def test_a_step_that_is_no_chain_is_refused_with_what_runs_there(kind, why):
    torch.manual_seed(0)
    model, batch = kind(), torch.randn(4, WIDTH)
    with pytest.raises(strategies.Unsupported, match=f"{why}.*; a strategy that needs no profile"):
        strategies.apply(model, "auto", budget="50%", example=batch)
    grads = []
    for spec in ("none", "every_layer", "sqrt"):
        with strategies.apply(model, spec, example=batch) as applied:
            assert len(applied.chain) == 4
            model(batch).backward()
        grads.append([p.grad for p in model.parameters()])
        model.zero_grad()
    for each in grads[1:]:
        assert all(map(torch.equal, each, grads[0]))


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4)))

    def forward(self, x):
        return self.blocks(x)


def squares(out):
    return out.square().mean()


def profile_with(optimizer):
    torch.manual_seed(0)
    model = Chain()
    given = {"example": torch.randn(ROWS, WIDTH), "loss": squares, "optimizer": optimizer(model)}
    with strategies.apply(model, "auto", budget="100%", verify=False, **given) as applied:
        return applied.chain.profile


def test_several_optimizers_are_one_update_after_the_other():
    def split(model):
        weights = [p for p in model.parameters() if p.ndim == 2]
        biases = [p for p in model.parameters() if p.ndim == 1]
        return [
            torch.optim.AdamW(weights, foreach=True),
            torch.optim.SGD(biases, lr=0.1, momentum=0.9, foreach=True),
        ]

    both = profile_with(split)
    weights = profile_with(lambda model: split(model)[0])
    biases = profile_with(lambda model: split(model)[1])
    momentum_bytes = 4 * 4 * WIDTH
    assert both.resident_bytes == weights.resident_bytes + momentum_bytes
    largest_bytes = max(weights.update_working_bytes, biases.update_working_bytes)
    assert both.update_working_bytes == largest_bytes > 0


@pytest.mark.parametrize(
    "optimizer", ["adamw", torch.optim.AdamW, [torch.optim.SGD], torch.optim.lr_scheduler.StepLR]
)
def test_what_is_no_optimizer(optimizer):
    with pytest.raises(ValueError, match="takes an optimizer that was made, or a list of those"):
        strategies.apply(Chain(), "sqrt", optimizer=optimizer)


def test_gradients_are_released_to_one():
    model = Chain()
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in model.parameters()]
    with pytest.raises(strategies.Unsupported, match="to one optimizer, not to several"):
        strategies.apply(model, "sqrt", optimizer=optimizers, release_gradients=True)


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (lambda out: out, rf"of one number, not shape \({ROWS}, {WIDTH}\)"),
        (lambda out: out.sum().item(), "of one number, not float"),
        (lambda out: out.detach().sum(), "has no gradient"),
    ],
)
def test_what_is_no_loss(loss, why):
    with pytest.raises(ValueError, match=why):
        strategies.apply(Chain(), "auto", budget="50%", example=torch.randn(ROWS, WIDTH), loss=loss)


@pytest.mark.parametrize("number", [1e9, 10**9, np.int64(10**9)])
def test_numbers_of_bytes(number):
    assert budget.parse(strategies.get("auto", budget=number).budget) == 10**9


def test_a_share_is_no_number_of_bytes():
    with pytest.raises(ValueError, match=r"'0.6' is no number of bytes; a share is written as 50%"):
        strategies.get("auto", budget=0.6)


class Capturing(Chain):
    """Installs hooks at its first forward, and notes that it did, as transformers does."""

    def forward(self, x):
        if not hasattr(self, "captures"):
            self.captures, self.seen = True, []
            for block in self.blocks:
                block.register_forward_hook(lambda block, args, out: self.seen.append(out))
        self.seen.clear()
        return super().forward(x) + self.seen[1]  # reads what the second block made


@pytest.mark.parametrize("spec", ["sqrt", "auto(budget='100%')"])
def test_hooks_that_a_first_forward_installs_are_there_once(spec):
    model = Capturing()
    strategies.apply(model, spec, example=torch.randn(ROWS, WIDTH), loss=squares)
    model(torch.randn(ROWS, WIDTH))
    assert len(model.seen) == len(model.blocks)


class Unread(nn.Module):
    """Nobody reads what the last block makes."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(4))
        )

    def forward(self, x):
        for block in self.blocks:
            before, x = x, block(x)
        return before


def test_a_last_block_that_nobody_reads_is_no_obstacle():
    model = Unread()
    step = ExampleStep(model, torch.randn(ROWS, WIDTH), squares, keep_output=False)
    chain = strategies.find_chain(model)
    profile = profile_chain(step, chain, modes=["products"], operators=True, scratch=True)
    assert all(block.operators.backward for block in profile.blocks)
    ran = []
    for text in ("0 1 2 3", "0 1 2 [3]"):
        with installed(lambda text=text: layout.install(chain, plan.parse(text))):
            ran.append(after_forward_bytes(step, chain, strategies.Schedule.parse("0 1 2 3")))
    predicted = predict(profile, plan.parse("0 1 2 3")).after_forward_bytes
    in_vain = predict(profile, plan.parse("0 1 2 [3]")).after_forward_bytes
    assert predicted == ran[0]
    saved_bytes = predicted + profile.group_bytes - in_vain  # random states are no tensors
    assert saved_bytes <= ran[0] - ran[1] == 0


class Wide(nn.Module):
    """Casts by itself, if told."""

    def __init__(self, casts):
        super().__init__()
        self.casts = casts
        self.blocks = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4)))

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.casts):
            return squares(self.blocks(x))


def kept_by(profile):
    """All but what kernels need for themselves, which the first ones keep."""
    blocks = [
        (
            block.output_bytes,
            block.gradient_bytes,
            len(block.operators.operators),
            [mode.saved_bytes for mode in block.modes],
        )
        for block in profile.blocks
    ]
    return blocks, profile.shared, profile.tail_saved_bytes, profile.tail_gradient_bytes


def test_a_plan_asked_for_under_autocast_is_of_forwards_under_it():
    profiles = []
    for casts in (True, False):
        torch.manual_seed(0)
        model, batch = Wide(casts), torch.randn(ROWS, WIDTH)
        model.forward = model.forward if casts else lambda x, m=model: squares(m.blocks(x))
        with torch.autocast("cpu", torch.bfloat16, enabled=not casts):
            model.blocks[0](batch)  # its copy of the weight is there already
            given = {"example": batch, "verify": False, "keep_output": False}
            with strategies.apply(model, "auto", budget="100%", **given) as applied:
                profiles.append(applied.chain.profile)
            assert torch.is_autocast_enabled("cpu") is not casts
    assert len(profiles[0].blocks[1].operators.operators) > 2  # each forward casts its weights
    assert kept_by(profiles[0]) == kept_by(profiles[1])


def above_bytes(model, text):
    """What is predicted of a step under a plan, above what the ledger sees: no random states."""
    step = ExampleStep(model, torch.randn(ROWS, WIDTH))
    step.forward()
    step.renew_output()
    chain = strategies.find_chain(model)
    profile = dataclasses.replace(profile_chain(step, chain), group_bytes=0)
    step.renew_output()
    with installed(lambda: layout.install(chain, plan.parse(text))):
        peak_bytes = tiny.watch(step).peak_bytes()
    return predict(profile, plan.parse(text)).peak_bytes - peak_bytes


class Scored(nn.Module):
    """Returns what it computed on the way, too."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        scores = torch.tanh(self.up(x))
        return x + torch.tanh(self.down(scores)), scores


class Scores(nn.Module):
    def __init__(self, reads):
        super().__init__()
        self.reads = reads
        self.blocks = nn.ModuleList(Scored() for _ in range(4))

    def forward(self, x):
        scores = []
        for block in self.blocks:
            x, score = block(x)
            scores.append(score)
        loss = squares(x)
        if self.reads:  # for a loss beside the model's own, and lets go
            return {"loss": loss + sum(map(squares, scores))}
        return {"loss": loss, "scores": scores}


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("text", ["0 1 2 3", "[0] [1] [2] [3]", "[0 1] [2 3]", "[[0 1] 2] 3"])
def test_what_blocks_make_and_others_hold_is_freed_by_no_plan(text, reads):
    # Where nobody but the tail holds them, it lets go of one after the other in its backward.
    assert 0 <= above_bytes(Scores(reads), text) <= reads * 3 * ROWS * 4 * WIDTH * 4


class Cached(nn.Module):
    """Puts what it computed on a list that later blocks are given, too."""

    def __init__(self):
        super().__init__()
        self.key, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x, cache):
        key = torch.tanh(self.key(x))
        cache.append(key)
        return x + torch.tanh(self.down(key))


class Caching(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Cached() for _ in range(4))

    def forward(self, x):
        cache = []
        for block in self.blocks:
            x = block(x, cache)
        return {"loss": squares(x), "cache": cache}


@pytest.mark.parametrize("text", ["0 1 2 3", "[0] [1] [2] [3]", "0 1 [2] 3", "0 [1] 2 3"])
def test_a_cache_that_later_blocks_are_given_is_freed_by_no_plan(text):
    assert above_bytes(Caching(), text) == 0


class Balancing(nn.Module):
    """Keeps a loss of its own, made from its output: its gradient is there before the output's."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        x = x + self.down(torch.tanh(self.up(x)))
        self.balance = squares(x)
        return x


class Balanced(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(Balancing() for _ in range(4)))

    def forward(self, x):
        return squares(self.blocks(x)) + sum(block.balance for block in self.blocks)


@pytest.mark.parametrize("text", ["0 1 2 3", "[0] [1] [2] [3]", "[0] 1 [2] 3"])
def test_a_block_runs_again_for_the_first_gradient_that_comes_to_it(text):
    assert -NUMBERS_BYTES <= above_bytes(Balanced(), text) <= 0  # the losses are numbers


class Straight(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Averaging(nn.Module):
    """Writes to a buffer in forward, which a recompute must meet as it was."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.register_buffer("average", torch.zeros(ROWS, WIDTH))

    def forward(self, x):
        self.average.mul_(0.9).add_(x.detach(), alpha=0.1)
        return x + self.down(torch.tanh(self.up(x))) + self.average


@pytest.mark.parametrize(
    "text",
    [
        *("0 1 2 3", "[0] [1] [2] [3]", "[0] 1 [2] 3", "0 1 2 [3]"),
        *("[0 1] [2 3]", "[[0 1] 2] 3", "[0 1 2 3]", "[[0] [1] 2] 3", "[0] [[1] 2] 3"),
    ],
)
@pytest.mark.parametrize("averaging", [range(4), [1, 3]])
def test_buffers_that_a_forward_writes_to_are_kept_for_the_recompute(averaging, text):
    """Every block of a group keeps its own, until the whole group is over."""
    kinds = (Averaging if index in averaging else Straight for index in range(4))
    assert above_bytes(nn.Sequential(*(kind() for kind in kinds)), text) == 0


class Orthogonal(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        nn.utils.parametrizations.orthogonal(self.up)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


@pytest.mark.parametrize("text", ["0 1 2 3", "[0] [1] [2] [3]", "[0] 1 2 3"])
def test_what_pytorch_does_otherwise_under_a_mode_is_measured_without_one(text):
    """Its gradients of factorizations write in place, where no mode is on."""
    step = ExampleStep(nn.Sequential(*(Orthogonal() for _ in range(4))), torch.randn(4, WIDTH))
    chain = strategies.profiled(step.model, "optimal", step)
    with installed(lambda: layout.install(chain, plan.parse(text))):
        peak_bytes = trial.peak_bytes(step, chain.profile)
    predicted_bytes = predict(chain.profile, plan.parse(text)).peak_bytes
    assert 0 <= predicted_bytes - peak_bytes <= NUMBERS_BYTES
    blind = How(nominal(step.device), "cpu")
    with preserved(step.model):
        _, unseen = blind.watch_twice(step, chain)
    assert all(unseen)


class Mixing(nn.Module):
    """Saves no input; the most is alive before what it saves is there."""

    def __init__(self):
        super().__init__()
        self.out = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.register_buffer("distance", torch.rand(ROWS, ROWS))

    def forward(self, x):
        return x + torch.tanh(torch.exp(-self.distance) @ x @ self.out)


class Turning(nn.Module):
    """Keeps a copy of its input alone, as attention that turns its batch does, and ends in a norm:
    that keeps what it was made from, so that its output is made in a recompute, too."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(ROWS, WIDTH), nn.Linear(WIDTH, ROWS)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        turned = self.up(x.transpose(0, 1).contiguous())
        return self.norm(x + self.down(turned).transpose(0, 1))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((Mixing, text) for text in ("[0] [1] 2 3", "[0 1] 2 3", "[0 1 2 3]", "0 [1 2] 3")),
        *((Turning, text) for text in ("0 1 2 3", "[0] [1] [2] [3]", "[0 1] [2 3]", "[[0 1] 2] 3")),
    ],
)
def test_an_input_is_there_until_the_last_of_a_group_has_run_again(kind, text):
    """Held by those who call it, where the block itself saves none."""
    assert above_bytes(nn.Sequential(*(kind() for _ in range(4))), text) == 0


def test_what_a_block_is_given_is_not_taken_for_what_a_later_one_saves():
    watcher = saved._SavedWatcher(ExampleStep(Chain(), torch.randn(ROWS, WIDTH)))
    given = torch.randn(ROWS, WIDTH)
    storage = weakref.ref(given.untyped_storage())
    watcher.enter(0, torch.randn(ROWS, WIDTH), [given])
    del given
    assert storage() is not None  # or its address were another's


class Recurrent(nn.Module):
    """Computes a last state that nobody wants: its graph is gone when the block has run."""

    def __init__(self):
        super().__init__()
        self.up, self.state = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4 * WIDTH)

    def forward(self, x, scale):
        hidden = torch.tanh(self.up(x))
        torch.exp(self.state(hidden)) * scale
        return x + hidden


class Recurring(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Recurrent() for _ in range(4))

    def forward(self, x):
        scale = torch.exp(x.mean())
        for block in self.blocks:
            x = block(x, scale)
        return squares(x)


@pytest.mark.parametrize("text", ["0 1 2 3", "[0] [1] [2] [3]", "[0 1] [2 3]", "[[0 1] 2] 3"])
def test_what_is_saved_for_a_result_that_nobody_wants_is_kept_by_no_plan(text):
    assert above_bytes(Recurring(), text) == 0


def test_a_model_without_memory_is_told_so():
    with pytest.raises(strategies.Unsupported, match=r"on the meta device, .*to_empty"):
        strategies.apply(Chain().to("meta"), "auto", budget="50%", example=torch.randn(4, WIDTH))
