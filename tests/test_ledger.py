"""The ledger counts each storage once, from birth to death, on real and on fake tensors."""

import gc
import weakref

import pytest
import tiny
import torch
from effort import few
from torch._subclasses.fake_tensor import FakeTensorMode

from strategies.profiling.ledger import Ledger

KB = 256  # float32 values


def kilobytes(count):
    return torch.ones(count * KB)


# Births and deaths.


def test_a_tensor_counts_while_it_lives():
    with Ledger() as ledger:
        one = kilobytes(1)
        assert ledger.alive_bytes == 1024
        two = kilobytes(2)
        assert ledger.alive_bytes == 3072
        del one
        assert ledger.alive_bytes == 2048
        del two
    assert ledger.alive_bytes == 0
    assert ledger.alive == [1024, 3072, 2048, 0]
    assert ledger.peak_bytes() == 3072


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.view(2, -1),
        lambda t: t[10:20],
        lambda t: t.view(16, 16).t(),
        lambda t: t.detach(),
        lambda t: t.split(100),
        lambda t: t.expand(8, -1),
    ],
)
def test_a_view_is_its_storage(make):
    with Ledger() as ledger:
        base = kilobytes(1)
        view = make(base)
        assert ledger.alive_bytes == 1024
        del base
        assert ledger.alive_bytes == 1024  # the view keeps it all
        del view
    assert ledger.alive_bytes == 0


def test_an_operation_in_place_is_its_storage():
    with Ledger() as ledger:
        tensor = kilobytes(1)
        tensor.add_(1).mul_(2).relu_()
        torch.add(tensor, 1, out=tensor)
        tensor[3:5].fill_(7)
        assert ledger.peak_bytes() == 1024


def test_every_output_counts():
    source = torch.rand(KB)
    with Ledger() as ledger:
        values, indices = source.sort()
        assert ledger.alive_bytes == values.nbytes + indices.nbytes


def test_what_was_there_before_is_adopted_once():
    base, other = torch.ones(KB), torch.ones(2 * KB)
    ledger = Ledger()
    assert ledger.adopt([base, base.view(16, 16), other[:1]]) == 3072
    assert ledger.adopt([other]) == 0
    with ledger:
        base.t()
        assert ledger.alive_bytes == 3072
        del other
        assert ledger.alive_bytes == 1024


def test_what_was_there_before_is_unknown_until_touched():
    before = torch.ones(KB)
    with Ledger() as ledger:
        before + 1
        assert ledger.peak_bytes() == 1024
        before.add_(1)  # now an operator has handed it out
        assert ledger.alive_bytes == 1024


def test_an_address_may_be_used_again():
    with Ledger() as ledger:
        for _ in range(100):
            kilobytes(1)
    assert ledger.alive_bytes == 0
    assert ledger.peak_bytes() == 1024
    assert len(ledger.alive) == 200


def test_a_death_after_the_end_is_seen_and_one_after_the_ledger_harmless():
    ledger = Ledger()
    with ledger:
        one, two = kilobytes(1), kilobytes(1)
    del one
    assert ledger.alive_bytes == 1024
    gone = weakref.ref(ledger)
    del ledger
    gc.collect()
    assert gone() is None  # storages do not keep it
    del two


# Marks.


def test_peaks_between_marks():
    with Ledger() as ledger:
        start = ledger.mark("start")
        held = kilobytes(4)
        middle = ledger.mark("middle")
        kilobytes(2)
        end = ledger.mark("end")
        kilobytes(8)
    assert [m.name for m in ledger.marks] == ["start", "middle", "end"]
    assert (middle.alive_bytes, end.alive_bytes) == (4096, 4096)
    assert ledger.peak_bytes(start, middle) == 4096
    assert ledger.peak_bytes(middle, end) == 6144
    assert ledger.peak_bytes(end) == 12_288
    assert ledger.peak_bytes(end, end) == 4096  # no event between: what was alive
    assert ledger.peak_bytes() == 12_288
    assert held.nbytes == 4096


def test_marks_count_flops_too():
    left, right = torch.ones(4, 8), torch.ones(8, 2)
    with Ledger() as ledger:
        before = ledger.mark("before")
        left @ right
        after = ledger.mark("after")
    assert (before.flops, after.flops) == (0, 2 * 4 * 8 * 2)
    assert after.recompute_flops == 0


# A whole step.


def forward_and_peak(ledger):
    return tiny.saved_bytes(ledger), ledger.peak_bytes(), ledger.flops, ledger.alive


PLANS = ["0 1 2 3 4 5", "[0] [1] [2] [3] [4] [5]", "[[0 1] 2 [3 4] 5]"]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    "workload", few(["mlp-chain", "gpt-mini-dropout", "vit-mini", "llama-mini"], 2)
)
def test_fake_tensors_give_the_same_ledger(workload, plan):
    """Not only the same peak: every birth and death, in the same order."""
    real = tiny.step(workload)
    with tiny.under(real, plan):
        measured = tiny.watch(real)
    with FakeTensorMode():
        fake = tiny.step(workload)
        with tiny.under(fake, plan):
            simulated = tiny.watch(fake)
    assert forward_and_peak(measured) == forward_and_peak(simulated)
    assert measured.marks == simulated.marks


@pytest.mark.parametrize("plan", PLANS)
def test_a_step_leaves_its_gradients_and_nothing_else(plan):
    step = tiny.step("gpt-mini")
    with tiny.under(step, plan):
        ledger = tiny.watch(step)
    start, _, end = ledger.marks
    gradient_bytes = sum(p.nbytes for p in step.model.parameters())
    assert end.alive_bytes - start.alive_bytes == gradient_bytes
    assert ledger.alive_bytes == start.alive_bytes  # the gradients were dropped since
