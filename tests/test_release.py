"""Gradients released in backward: the usual loop's results, bitwise, with fewer of them alive."""

import contextlib
import copy
import functools
import gc
import weakref

import pytest
import torch
from models import WIDTH, Small, chain_of, loss_of
from torch import nn
from torch.utils.checkpoint import checkpoint

import strategies
from strategies import Unsupported, release_gradients
from strategies.profiling.ledger import Ledger

ROWS = torch.linspace(-2, 2, 3 * WIDTH).view(3, WIDTH)
SGD = functools.partial(torch.optim.SGD, lr=0.1)
OPTIMIZERS = {
    "AdamW": torch.optim.AdamW,
    "AdamW, foreach": functools.partial(torch.optim.AdamW, foreach=True),
    "AdamW, fused": functools.partial(torch.optim.AdamW, fused=True),
    "Adam, amsgrad": functools.partial(torch.optim.Adam, amsgrad=True),
    "SGD": SGD,
    "SGD, momentum": functools.partial(SGD, momentum=0.9, foreach=True),
    "Adafactor": torch.optim.Adafactor,
    "NAdam": torch.optim.NAdam,
    "RMSprop": functools.partial(torch.optim.RMSprop, centered=True),
    "Rprop": torch.optim.Rprop,
    "ASGD": torch.optim.ASGD,
}


class Tied(nn.Module):
    """The same weight at both ends and in two blocks."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Small() for _ in range(4))
        self.blocks[2].linear.weight = self.blocks[0].linear.weight

    def forward(self, x):
        weight = self.blocks[0].linear.weight
        x = x @ weight
        for block in self.blocks:
            x = block(x)
        return x @ weight


def make(kind="chain"):
    torch.manual_seed(0)
    return Tied() if kind == "tied" else chain_of(5, Small).train()


def groups_of(model):
    """Two groups: what decays and what does not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    return [
        {"params": matrices, "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0, "lr": 0.05},
    ]


def trained(model, optimizer, *, released, steps=3, rows=ROWS):
    """The usual loop with a schedule of rates; what it leaves."""
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    if released:
        release_gradients(model, optimizer)
    for _ in range(steps):
        loss_of(model(rows)).backward()
        assert all(p.grad is None for p in model.parameters()) == released
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return optimizer.state_dict(), [p.detach().clone() for p in model.parameters()]


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


# The same result.


@pytest.mark.parametrize("spec", ["none", "every_k(k=2)"])
@pytest.mark.parametrize("kind", ["chain", "tied"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_usual_loop_leaves_the_same_weights_and_state(name, kind, spec):
    results = []
    for released in (False, True):
        model = make(kind)
        optimizer = OPTIMIZERS[name](model.parameters())
        strategies.apply(model, spec)
        results.append(trained(model, optimizer, released=released))
    assert_equal(*results)


def test_groups_keep_their_own_rates_and_state_is_loaded_in_between():
    results = []
    for released in (False, True):
        model = make()
        optimizer = torch.optim.AdamW(groups_of(model))
        first, _ = trained(model, optimizer, released=released)
        optimizer.load_state_dict(copy.deepcopy(first))
        loss_of(model(ROWS)).backward()
        optimizer.step()
        results.append((optimizer.state_dict(), list(model.parameters())))
    assert_equal(*results)


def test_state_of_the_usual_loop_goes_on_with_released_gradients_and_back():
    results = []
    for released in (False, True):
        model = make()
        optimizer = torch.optim.AdamW(model.parameters())
        for number in range(6):
            now = released and number in (2, 3)
            with release_gradients(model, optimizer) if now else contextlib.nullcontext():
                loss_of(model(ROWS)).backward()
                assert all(p.grad is None for p in model.parameters()) == now
                optimizer.step()
            optimizer.zero_grad()
        results.append((optimizer.state_dict(), list(model.parameters())))
    assert_equal(*results)


def test_what_is_frozen_unused_or_comes_later_is_as_in_the_usual_loop():
    results = []
    for released in (False, True):
        model, unused, late = make(), nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(WIDTH))
        model[1].linear.weight.requires_grad_(False)
        optimizer = torch.optim.AdamW([*model.parameters(), unused])
        if released:
            release_gradients(model, optimizer)
        optimizer.add_param_group({"params": [late]})
        for _ in range(3):
            loss_of(model(ROWS * late)).backward()
            assert late.grad is not None
            optimizer.step()
            optimizer.zero_grad()
        results.append([*model.parameters(), unused, late])
    assert_equal(*results)
    assert_equal(results[0][-2], torch.ones(3))


def test_hooks_of_step_are_called_once_a_step():
    model, calls = make(), []
    optimizer = SGD(model.parameters())
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    trained(model, optimizer, released=True, steps=2)
    assert calls == ["after", "after"]


def test_a_closure_is_run_as_it_is():
    results = []
    for released in (False, True):
        model = make()
        optimizer = SGD(model.parameters())
        if released:
            release_gradients(model, optimizer)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = loss_of(model(ROWS))
            loss.backward()
            return loss

        losses = [optimizer.step(closure) for _ in range(3)]
        results.append((losses, list(model.parameters())))
    assert_equal(*results)


# Less memory.


def test_a_gradient_and_its_update_are_alive_alone():
    """Of matrices of one size: without release all gradients, with it one at a time."""
    model = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(6)])
    peaks = []
    for released in (False, True):
        twin = copy.deepcopy(model)
        optimizer = SGD(twin.parameters())
        if released:
            release_gradients(twin, optimizer)
        ledger, rows = Ledger(), torch.ones(1, 64)
        start_bytes = ledger.adopt([*twin.parameters(), rows])
        with ledger:
            twin(rows).sum().backward()
            optimizer.step()
        peaks.append(ledger.peak_bytes() - start_bytes)
    matrix_bytes = 64 * 64 * 4
    assert peaks[0] >= 6 * matrix_bytes
    assert matrix_bytes <= peaks[1] < 2 * matrix_bytes


# What undoing leaves.


def test_undone_gradients_live_again():
    model = make()
    optimizer = SGD(model.parameters())
    before = set(vars(optimizer))
    release = release_gradients(model, optimizer)
    release.undo()
    release.undo()
    loss_of(model(ROWS)).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert set(vars(optimizer)) == before
    assert not optimizer._optimizer_step_pre_hooks


def test_a_copy_of_the_model_is_trained_by_nobody():
    model = make()
    optimizer = SGD(model.parameters())
    applied = strategies.apply(model, "sqrt", optimizer=optimizer, release_gradients=True)
    twin = copy.deepcopy(model)
    loss_of(twin(ROWS)).backward()
    assert all(p.grad is not None for p in twin.parameters())
    strategies.undo(twin)
    loss_of(model(ROWS)).backward()  # the original is released as before
    assert all(p.grad is None for p in model.parameters())
    applied.undo()
    loss_of(model(ROWS)).backward()
    assert all(p.grad is not None for p in model.parameters())


# Refusals.


class NormOfAll(torch.optim.SGD):
    """Divides by a norm of all gradients."""

    @torch.no_grad()
    def step(self, closure=None):
        nn.utils.clip_grad_norm_([p for g in self.param_groups for p in g["params"]], 0.1)
        return super().step(closure)


class Counting(torch.optim.SGD):
    """Counts its steps in its groups, as schedule-free optimizers do."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
        return super().step(closure)


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (torch.optim.LBFGS, "LBFGS cannot be tried one parameter at a time"),
        (functools.partial(NormOfAll, lr=0.1), "NormOfAll does to a parameter depends on the othe"),
        (functools.partial(Counting, lr=0.1), "Counting does to a parameter depends on the others"),
    ],
)
def test_an_optimizer_of_all_gradients_is_refused(optimizer, reason):
    model = make()
    with pytest.raises(Unsupported, match=reason):
        release_gradients(model, optimizer(model.parameters()))
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_trial_leaves_the_optimizer_and_the_random_numbers():
    model = make()
    optimizer = torch.optim.AdamW(groups_of(model))
    before, random = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    release_gradients(model, optimizer).undo()
    assert_equal(optimizer.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), random)


def test_accumulation_is_refused_at_the_second_batch():
    model = make()
    optimizer = SGD(model.parameters())
    with release_gradients(model, optimizer):
        loss_of(model(ROWS)).backward()
        with pytest.raises(Unsupported, match=r"do not accumulate: .* before optimizer.step"):
            loss_of(model(ROWS)).backward()


def test_a_parameter_that_reentrant_checkpoints_share_is_refused():
    """Each of them runs a backward of its own, so that a gradient is whole twice."""
    model = make()
    optimizer = SGD(model.parameters())
    rows = ROWS.clone().requires_grad_()
    with release_gradients(model, optimizer):
        output = checkpoint(
            model[0], checkpoint(model[0], rows, use_reentrant=True), use_reentrant=True
        )
        with pytest.raises(Unsupported, match="do not accumulate"):
            output.sum().backward()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_a_gradient_scaler_is_refused(unscale, fused):
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with release_gradients(model, optimizer):
        scaler.scale(loss_of(model(ROWS))).backward()
        if unscale:
            scaler.unscale_(optimizer)
        with pytest.raises(Unsupported, match="before a GradScaler sees them"):
            scaler.step(optimizer)
    loss_of(model(ROWS)).backward()
    optimizer.step()


def test_a_gradient_scaler_that_is_off_does_no_harm():
    model = make()
    optimizer = SGD(model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with release_gradients(model, optimizer):
        for _ in range(2):
            scaler.scale(loss_of(model(ROWS))).backward()
            scaler.step(optimizer)
            scaler.update()


def test_a_second_release_is_refused():
    model = make()
    optimizer = SGD(model.parameters())
    with release_gradients(model, optimizer), pytest.raises(Unsupported, match="released already"):
        release_gradients(model, optimizer)


def test_wrappers_of_several_processes_are_refused():
    class FSDPModule(nn.Linear):
        """By its name, as `fully_shard` makes one."""

    model = nn.Sequential(FSDPModule(3, 3))
    with pytest.raises(Unsupported, match=r"averaged after they are whole"):
        release_gradients(model, SGD(model.parameters()))


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    model = make()
    with pytest.raises(Unsupported, match=r"averaged after they are whole"):
        release_gradients(model, SGD(model.parameters()))


# With a strategy, in one call.


@pytest.mark.parametrize("options", [{}, {"example": ROWS}, {"example": ROWS, "check": True}])
def test_apply_releases_and_undo_ends_it(options):
    results = []
    for released in (False, True):
        model = make()
        optimizer = torch.optim.AdamW(model.parameters())
        given = {"optimizer": optimizer, "release_gradients": released, **options}
        with strategies.apply(model, "sqrt", **given):
            for _ in range(3):
                loss_of(model(ROWS)).backward()
                assert all(p.grad is None for p in model.parameters()) == released
                optimizer.step()
                optimizer.zero_grad()
        loss_of(model(ROWS)).backward()
        assert all(p.grad is not None for p in model.parameters())
        results.append((optimizer.state_dict(), list(model.parameters())))
    assert_equal(*results)


def test_planning_a_model_whose_gradients_are_released_updates_nothing():
    model = make()
    optimizer = SGD(model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    with release_gradients(model, optimizer):
        strategies.apply(model, "optimal", budget="100%", example=ROWS, check=True)
        assert_equal([p.detach() for p in model.parameters()], before)
        loss_of(model(ROWS)).backward()
        assert all(p.grad is None for p in model.parameters())


def test_apply_needs_an_optimizer_and_no_accumulation():
    model = make()
    with pytest.raises(ValueError, match="needs the optimizer"):
        strategies.apply(model, "sqrt", release_gradients=True)
    given = {"optimizer": SGD(model.parameters()), "release_gradients": True}
    with pytest.raises(ValueError, match="do not accumulate: drop accumulation=True"):
        strategies.apply(model, "sqrt", accumulation=True, **given)
    given["optimizer"] = torch.optim.LBFGS(model.parameters())
    with pytest.raises(Unsupported, match="LBFGS cannot be tried"):
        strategies.apply(model, "sqrt", **given)
    strategies.apply(model, "sqrt").undo()  # it is under no strategy


def test_a_model_is_saved_whole(tmp_path):
    model = make()
    optimizer = SGD(model.parameters())
    strategies.apply(model, "sqrt", optimizer=optimizer, release_gradients=True)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    strategies.undo(loaded)
    loss_of(loaded(ROWS)).backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_a_model_and_its_optimizer_are_freed():
    """A hook of a tensor's that holds the tensor is found by no collection of garbage."""
    model = make()
    trained(model, torch.optim.AdamW(model.parameters()), released=True)
    gone = [weakref.ref(parameter) for parameter in model.parameters()]
    del model
    gc.collect()
    assert [reference() for reference in gone] == [None] * len(gone)
