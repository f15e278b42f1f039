"""Modelled time against closed forms, on a device whose figures are small whole numbers."""

import dataclasses

import pytest
from effort import examples
from hypothesis import given
from hypothesis import strategies as st

from bench.devices import accelerators
from bench.simulate.roofline import (
    Operator,
    StepTime,
    Transfer,
    one_segment_ahead,
    operator_s,
    step_time,
)

DEVICE = dataclasses.replace(
    accelerators.get("a100-80gb"),
    bf16_flops_per_s=100.0,
    fp16_flops_per_s=50.0,
    fp32_flops_per_s=10.0,
    memory_bandwidth_bytes_per_s=5.0,
    link_bandwidth_bytes_per_s=1.0,
    launch_overhead_s=1.0,
)


def work(flops=0, moved_bytes=0, dtype="float32"):
    return Operator("op", flops, moved_bytes, dtype)


def offload(position, size, needed_before=None):
    return Transfer(position, size, to_host=True, needed_before=needed_before)


def fetch(position, size, needed_before=None):
    return Transfer(position, size, to_host=False, needed_before=needed_before)


TEN = [work(flops=90)] * 10  # each takes a launch of 1 s and 9 s of arithmetic


@pytest.mark.parametrize(
    ("flops", "moved_bytes", "dtype", "seconds"),
    [
        (0, 0, "float32", 1),
        (20, 5, "float32", 1 + 20 / 10),
        (20, 15, "float32", 1 + 15 / 5),
        (200, 5, "bfloat16", 1 + 200 / 100),
        (200, 5, "float16", 1 + 200 / 50),
        (200, 5, "float64", 1 + 200 / 10),
    ],
)
def test_operator_takes_its_launch_and_the_slower_of_two(flops, moved_bytes, dtype, seconds):
    assert operator_s(flops, moved_bytes, dtype, DEVICE) == seconds


def test_matrix_product_on_a_real_device():
    """A product of 8192³ in bf16 is bound by arithmetic: 2·8192³ over 989.4 TFLOPS."""
    h100 = accelerators.get("h100-80gb")
    seconds = operator_s(2 * 8192**3, 3 * 2 * 8192**2, "bfloat16", h100)
    assert seconds == pytest.approx(4e-6 + 1.1113e-3, rel=1e-4)


def test_addition_on_a_real_device():
    """An addition is bound by traffic: three times 1 GB over 3.35 TB/s."""
    h100 = accelerators.get("h100-80gb")
    seconds = operator_s(5 * 10**8, 3 * 10**9, "bfloat16", h100)
    assert seconds == pytest.approx(4e-6 + 3 / 3350)


def test_step_splits_into_its_parts():
    operators = [work(20, 5), work(20, 15), work(10, 5), work()]
    found = step_time(operators, [], DEVICE)
    assert found == StepTime(compute_s=3, memory_bound_s=3, launch_s=4, stall_s=0)
    assert found.step_s == 10


def test_empty_step_takes_no_time():
    assert step_time([], [], DEVICE).step_s == 0


def test_offload_that_nobody_awaits_is_free():
    assert step_time(TEN, [offload(2, 35), offload(10, 1000)], DEVICE).step_s == 100


def test_awaited_offload_stalls_for_what_is_not_hidden():
    """It runs from second 20 to 55; the operator at 4 would begin at 40."""
    found = step_time(TEN, [offload(2, 35, needed_before=4)], DEVICE)
    assert found == StepTime(compute_s=90, memory_bound_s=0, launch_s=10, stall_s=15)
    assert found.step_s == 115


def test_awaited_offload_in_time_does_not_stall():
    assert step_time(TEN, [offload(2, 20, needed_before=4)], DEVICE).stall_s == 0


def test_end_of_the_step_can_wait():
    assert step_time(TEN, [offload(10, 7, needed_before=10)], DEVICE).step_s == 107


def test_fetch_at_its_need_stalls_in_full():
    assert step_time(TEN, [fetch(5, 7), fetch(8, 3)], DEVICE).stall_s == 7 + 3


def test_fetch_ahead_hides_behind_operators():
    assert step_time(TEN, [fetch(3, 20, needed_before=5)], DEVICE).stall_s == 0
    assert step_time(TEN, [fetch(3, 26, needed_before=5)], DEVICE).stall_s == 6


def test_copies_in_one_direction_queue():
    found = step_time(TEN, [fetch(0, 15, needed_before=3), fetch(0, 15, needed_before=2)], DEVICE)
    assert found.stall_s == 10  # the second ends at 30, its operator would begin at 20
    found = step_time(TEN, [offload(1, 25), offload(2, 25, needed_before=3)], DEVICE)
    assert found.stall_s == 10 + 25 + 25 - 30


def test_directions_do_not_share_the_link():
    """The offload begins at 20, while the fetch runs from 0 to 50."""
    both = [fetch(0, 50, needed_before=5), offload(2, 30, needed_before=5)]
    assert step_time(TEN, both, DEVICE).stall_s == 0


def test_fetch_waits_for_earlier_offloads():
    """The link is busy with offloads until 65, then fetches for 5, and 50 is when it is needed."""
    found = step_time(TEN, [offload(1, 55), fetch(5, 5)], DEVICE)
    assert found.stall_s == 65 + 5 - 50


def test_stall_delays_what_is_issued_later():
    """The stall of 7 s at 5 moves the start of 8 from 80 to 87, and the later fetch with it."""
    found = step_time(TEN, [fetch(5, 7), fetch(8, 10, needed_before=9)], DEVICE)
    assert found.step_s == 107


def test_one_segment_ahead_moves_issues_and_keeps_needs():
    assert one_segment_ahead([offload(1, 4), fetch(5, 7), fetch(5, 2), fetch(8, 3, 9)]) == [
        offload(1, 4),
        fetch(5, 7, needed_before=5),
        fetch(5, 2, needed_before=5),
        fetch(5, 3, needed_before=9),
    ]


def test_prefetch_hides_all_but_the_first_fetch():
    """Segments at 4, 6 and 8, two operators (20 s) each; a fetch takes 12 s."""
    fetches = [fetch(4, 12), fetch(6, 12), fetch(8, 12)]
    assert step_time(TEN, fetches, DEVICE).stall_s == 36
    assert step_time(TEN, fetches, DEVICE, prefetch=True).stall_s == 12


def test_prefetch_on_a_slow_link_is_bound_by_the_link():
    """Fetches of 50 s: from 40 the link is never idle, and the last ends at 190."""
    fetches = [fetch(4, 50), fetch(6, 50), fetch(8, 50)]
    found = step_time(TEN, fetches, DEVICE, prefetch=True)
    assert found.step_s == 40 + 3 * 50 + 20


@pytest.mark.parametrize(
    "copy", [fetch(-1, 1), fetch(11, 1), fetch(5, 1, needed_before=4), offload(5, 1, 11)]
)
def test_copy_out_of_place_is_refused(copy):
    with pytest.raises(ValueError, match="Transfer"):
        step_time(TEN, [copy], DEVICE)


COPIES = st.lists(
    st.builds(Transfer, st.integers(0, 10), st.integers(0, 40), st.booleans()), max_size=8
)


@examples(60)
@given(COPIES)
def test_bounds(copies):
    """Copies lengthen a step by no more than their own time; prefetching never lengthens it."""
    copies.sort(key=lambda copy: copy.position)
    late = step_time(TEN, copies, DEVICE)
    ahead = step_time(TEN, copies, DEVICE, prefetch=True)
    fetched_bytes = sum(copy.size_bytes for copy in copies if not copy.to_host)
    assert late.stall_s >= fetched_bytes  # at 1 byte a second, and nothing to hide behind
    assert 100 <= ahead.step_s <= late.step_s
    assert late.step_s <= 100 + sum(copy.size_bytes for copy in copies)
