"""Scratch of CUDA's kernels: as an H200's allocator gave it out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.devices import accelerators, multiprocessors
from bench.devices.multiprocessors import Multiprocessors
from bench.simulate import scratch
from bench.simulate.reductions import scratch_bytes
from strategies.profiling.free_blocks import GRANULE_BYTES
from strategies.profiling.ledger import Ledger

H200 = Multiprocessors(132, 2048)

# Rows, columns, and bytes above the sum itself at the peak of x.sum(0), x in fp32: measured by
# torch.cuda.max_memory_allocated, torch 2.11.0+cu130 on an NVIDIA H200, 2026-11-26.
MEASURED = (
    (1024, 64, 0),
    (1024, 256, 2097664),
    (1024, 1024, 8389120),
    (1024, 4096, 33554944),
    (4096, 64, 524800),
    (4096, 256, 8389120),
    (4096, 1024, 33554944),
    (4096, 4096, 134218240),
    (65536, 64, 8389120),
    (65536, 256, 134218240),
    (65536, 1024, 138412544),
    (65536, 4096, 138412544),
)
# The same of x.sum(), by the number of elements.
WHOLE = ((65536, 0), (262144, 1024), (4194304, 2560), (16777216, 3072), (268435456, 8704))


def rounded(sizes_bytes):
    return sum(-(-size // GRANULE_BYTES) * GRANULE_BYTES for size in sizes_bytes)


@pytest.mark.parametrize(("rows", "columns", "size_bytes"), MEASURED)
def test_sums_over_rows(rows, columns, size_bytes):
    x = torch.empty(rows, columns, device="meta")
    assert rounded(scratch_bytes(x, (0,), H200)) == size_bytes
    batches = x.view(4, -1, columns)  # lies as one, and is one
    assert rounded(scratch_bytes(batches, (0, 1), H200)) == size_bytes


@pytest.mark.parametrize(("elements", "size_bytes"), WHOLE)
def test_sums_of_everything(elements, size_bytes):
    x = torch.empty(elements, device="meta")
    assert rounded(scratch_bytes(x, (0,), H200)) == size_bytes


def test_a_device_of_fewer_multiprocessors_shares_an_output_among_fewer_blocks():
    x = torch.empty(65536, 4096, device="meta")
    half = Multiprocessors(66, 2048)
    assert scratch_bytes(x, (0,), half)[0] < scratch_bytes(x, (0,), H200)[0]


def test_nothing_is_reduced_over_one():
    assert scratch_bytes(torch.empty(1, 64, device="meta"), (0,), H200) == ()


# By operator, under a ledger.


def peak_bytes(call, *inputs):
    ledger = Ledger(scratch=scratch.Scratch(H200))
    ledger.adopt(inputs)
    with torch.no_grad(), ledger:
        out = call(*inputs)
    return ledger.peak_bytes(), ledger.alive_bytes, out


@pytest.mark.parametrize("call", [lambda x: x.sum(0), lambda x: x.mean(0)])
def test_a_reduction_returns_what_it_took(call):
    x = torch.zeros(1024, 256)
    most, left, out = peak_bytes(call, x)
    assert left == x.nbytes + out.nbytes
    assert most == left + 2097152 + 8


def test_softmax_backward_takes_the_product_of_gradient_and_output():
    y = torch.zeros(8, 64).softmax(-1)
    most, left, out = peak_bytes(lambda y: torch._softmax_backward_data(y, y, -1, y.dtype), y)
    assert (left, most) == (y.nbytes + out.nbytes, 2 * y.nbytes + out.nbytes)


def test_whole_numbers_and_doubles_are_left_alone():
    for dtype in (torch.int64, torch.float64):
        x = torch.zeros(4096, 1024, dtype=dtype)
        most, left, _ = peak_bytes(lambda x: x.sum(0), x)
        assert most == left


# Devices.


def test_every_cuda_device_of_the_catalogue_has_its_multiprocessors():
    devices = accelerators.catalogue().values()
    on_cuda = {one.name for one in devices if one.compute_capability is not None}
    assert set(multiprocessors.known()) == on_cuda
    assert all(row.source for row in multiprocessors.known().values())


def test_a_custom_device_has_those_of_what_it_is_made_after():
    custom = accelerators.get("sim:custom(memory_gb=48)")
    assert multiprocessors.of(custom) == multiprocessors.of(accelerators.get("a100-80gb"))


def test_a_device_without_cuda_has_no_known_scratch():
    assert scratch.on(accelerators.get("mi300x-192gb")) is None


# Gradients that meet.


class Tied(nn.Module):
    """One weight for the embedding and the output."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(64, 8)

    def forward(self, x):
        return F.linear(self.embedding(x), self.embedding.weight)


def test_the_gradient_of_a_tied_weight_is_added_out_of_place():
    """As the profiler shows of real ones, on a CPU and on an H200: a view keeps its base."""
    from bench.simulate import semantics  # noqa: PLC0415

    model, x = Tied(), torch.zeros(4, dtype=torch.int64)
    ledger = Ledger()
    ledger.adopt(model.parameters())
    with semantics.cuda(), ledger:
        loss = model(x).sum()
        before = ledger.mark("backward")
        loss.backward()
    weight_bytes = model.embedding.weight.nbytes
    assert ledger.peak_bytes(before, None) >= 4 * weight_bytes  # weight, two gradients, their sum
