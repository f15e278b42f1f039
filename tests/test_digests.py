"""Digests stand for tensors: what differs anywhere, or is another kind of tensor, has another."""

import pytest
import torch

from bench.measure import digests
from bench.measure.digests import digest, unlike


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("place", [0, 5, (1 << 15) - 1, 1 << 15, 99_999])
def test_one_value_decides(dtype, place):
    one = torch.arange(100_000).remainder(113).to(dtype)
    other = one.clone()
    assert digest(one) == digest(other)
    other[place] += 1
    assert digest(one) != digest(other)


def test_one_bit_decides():
    one = torch.ones(1000)
    other = one.clone()
    other[7] = 1 + 2**-23
    assert digest(one) != digest(other)
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))


def test_order_type_and_shape_decide():
    one = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0))
    chunks = one.view(2, -1).flip(0).flatten()
    assert len({digest(t) for t in (one, one.flip(0), chunks, one.view(2, -1))}) == 4
    assert digest(torch.zeros(4)) != digest(torch.zeros(4, dtype=torch.int32))


def test_layout_does_not():
    one = torch.randn(40, 30)
    assert digest(one.t()) == digest(one.t().contiguous())


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_small_ones(shape):
    assert digest(torch.ones(shape)) == digest(torch.ones(shape))


def test_a_digest_draws_no_random_numbers():
    digests._all_multipliers.cache_clear()
    before = torch.get_rng_state()
    digest(torch.ones(3))
    assert torch.equal(before, torch.get_rng_state())


def test_names_that_differ():
    assert unlike({"a": 1, "b": None}, {"a": 1, "b": None}) == []
    assert unlike({"a": 1, "b": None}, {"a": 2, "b": 3}) == ["a", "b"]
    assert unlike({"a": None}, {"b": 1}) == ["a", "b"]
