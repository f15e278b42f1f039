"""The allocator's model against its documented rules, by hand and against a naive second one."""

import itertools
import random

import pytest
from effort import examples
from hypothesis import given
from hypothesis import strategies as st

from bench.simulate.replay import replay
from strategies.profiling.caching_allocator import CachingAllocator, OutOfMemoryError

MIB = 2**20


def segments(allocator):
    """The blocks of each segment that is held, both in order of address."""
    return [list(chain(first)) for first in allocator._first_blocks.values()]


def chain(block):
    """A block and those after it in its segment."""
    while block is not None:
        yield block
        block = block.after


def layout(allocator):
    """Size of each block of each segment in MiB, negative if it is free."""
    return [
        [(-1 if block.is_free else 1) * block.size_bytes / MIB for block in blocks]
        for blocks in segments(allocator)
    ]


@pytest.mark.parametrize(
    ("size_bytes", "allocated_bytes", "reserved_bytes"),
    [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),
        (11 * MIB - 512, 11 * MIB - 512, 12 * MIB),
        # Not worth splitting: what is left is not above 1 MiB, and is counted as allocated.
        (11 * MIB, 12 * MIB, 12 * MIB),
        (33 * MIB, 34 * MIB, 34 * MIB),
    ],
)
def test_one_request(size_bytes, allocated_bytes, reserved_bytes):
    allocator = CachingAllocator()
    allocator.allocate(size_bytes)
    assert allocator.allocated_bytes == allocated_bytes
    assert allocator.reserved_bytes == reserved_bytes


def test_small_requests_share_a_segment_until_it_is_full():
    allocator = CachingAllocator()
    for _ in range(4):
        allocator.allocate(MIB // 2)
    assert layout(allocator) == [[0.5, 0.5, 0.5, 0.5]]
    allocator.allocate(1)
    assert allocator.reserved_bytes == 4 * MIB


def test_small_block_is_split_down_to_512_bytes():
    allocator = CachingAllocator()
    allocator.allocate(MIB)
    allocator.allocate(MIB - 512)
    assert layout(allocator) == [[1, 1 - 512 / MIB, -512 / MIB]]
    allocator.allocate(512)
    assert allocator.allocated_bytes == allocator.reserved_bytes == 2 * MIB


def test_small_and_large_requests_do_not_share():
    allocator = CachingAllocator()
    large = allocator.allocate(4 * MIB)
    allocator.free(large)
    allocator.allocate(MIB)
    assert layout(allocator) == [[-20], [1, -1]]


def test_smallest_free_block_that_fits_is_taken():
    allocator = CachingAllocator()
    handles = [allocator.allocate(size * MIB) for size in (40, 24, 32)]
    for handle in handles:
        allocator.free(handle)
    allocator.allocate(23 * MIB)
    assert layout(allocator) == [[-40], [24], [-32]]
    allocator.allocate(25 * MIB)
    assert layout(allocator) == [[-40], [24], [25, -7]]
    allocator.allocate(7 * MIB)
    assert layout(allocator) == [[-40], [24], [25, 7]]


def test_of_equal_blocks_the_lowest_address_is_taken():
    allocator = CachingAllocator()
    handles = [allocator.allocate(30 * MIB) for _ in range(3)]
    for index in (2, 0, 1):
        allocator.free(handles[index])
    allocator.allocate(30 * MIB)
    assert layout(allocator) == [[30], [-30], [-30]]


def test_freed_block_merges_with_both_neighbours():
    allocator = CachingAllocator()
    first, second, third, fourth = (allocator.allocate(4 * MIB) for _ in range(4))
    assert layout(allocator) == [[4, 4, 4, 4, -4]]
    allocator.free(first)
    allocator.free(third)
    assert layout(allocator) == [[-4, 4, -4, 4, -4]]
    allocator.free(second)
    assert layout(allocator) == [[-12, 4, -4]]
    allocator.free(fourth)
    assert layout(allocator) == [[-20]]


def test_merged_block_serves_what_its_parts_could_not():
    allocator = CachingAllocator()
    handles = [allocator.allocate(5 * MIB) for _ in range(4)]
    allocator.free(handles[1])
    allocator.free(handles[2])
    allocator.allocate(9 * MIB)
    assert layout(allocator) == [[5, 10, 5]]


def test_fragments_make_reserved_exceed_allocated():
    """Every second block is free, and yet no hole is large enough."""
    allocator = CachingAllocator()
    handles = [allocator.allocate(4 * MIB) for _ in range(10)]
    for handle in handles[::2]:
        allocator.free(handle)
    assert allocator.allocated_bytes == 20 * MIB
    assert allocator.reserved_bytes == 40 * MIB
    allocator.allocate(6 * MIB)
    assert allocator.allocated_bytes == 26 * MIB
    assert allocator.reserved_bytes == 60 * MIB


def test_streams_do_not_share():
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(MIB, stream=1))
    allocator.allocate(MIB, stream=2)
    assert layout(allocator) == [[-2], [1, -1]]
    allocator.allocate(MIB, stream=1)
    assert layout(allocator) == [[1, -1], [1, -1]]


def test_nothing_takes_nothing():
    allocator = CachingAllocator(capacity_bytes=0)
    first, second = allocator.allocate(0), allocator.allocate(0)
    assert first != second
    assert allocator.reserved_bytes == 0
    allocator.free(first)
    with pytest.raises(ValueError, match=f"handle {first} is not in use"):
        allocator.free(first)


def test_negative_size_is_refused():
    with pytest.raises(ValueError, match="-1"):
        CachingAllocator().allocate(-1)


def test_freeing_twice_is_refused():
    allocator = CachingAllocator()
    handle = allocator.allocate(1)
    allocator.free(handle)
    allocator.allocate(1)
    with pytest.raises(ValueError, match="not in use"):
        allocator.free(handle)


def test_when_full_whole_free_segments_go_back():
    allocator = CachingAllocator(capacity_bytes=50 * MIB)
    kept = allocator.allocate(4 * MIB)
    allocator.free(allocator.allocate(30 * MIB))
    allocator.allocate(22 * MIB)
    assert layout(allocator) == [[4, -16], [22, -8]]

    allocator = CachingAllocator(capacity_bytes=50 * MIB)
    kept = allocator.allocate(4 * MIB)
    allocator.free(allocator.allocate(20 * MIB))
    assert layout(allocator) == [[4, -16], [-20]]
    allocator.allocate(30 * MIB)
    assert layout(allocator) == [[4, -16], [30]]
    assert allocator.peak_reserved_bytes == 50 * MIB
    allocator.free(kept)
    assert layout(allocator) == [[-20], [30]]


def test_what_was_given_back_is_not_used_again():
    allocator = CachingAllocator(capacity_bytes=40 * MIB)
    allocator.free(allocator.allocate(20 * MIB))
    allocator.allocate(40 * MIB)
    with pytest.raises(OutOfMemoryError):
        allocator.allocate(20 * MIB)


def test_out_of_memory_says_how_much_is_missing():
    allocator = CachingAllocator(capacity_bytes=50 * MIB)
    allocator.allocate(4 * MIB)
    allocator.free(allocator.allocate(24 * MIB))
    with pytest.raises(OutOfMemoryError, match=f"{2 * MIB} missing") as caught:
        allocator.allocate(31 * MIB)
    assert caught.value.requested_bytes == 31 * MIB
    assert caught.value.missing_bytes == 20 * MIB + 32 * MIB - 50 * MIB
    assert caught.value.allocated_bytes == 4 * MIB
    assert caught.value.reserved_bytes == 20 * MIB
    assert caught.value.capacity_bytes == 50 * MIB


def test_after_out_of_memory_it_goes_on():
    allocator = CachingAllocator(capacity_bytes=20 * MIB)
    with pytest.raises(OutOfMemoryError):
        allocator.allocate(21 * MIB)
    assert allocator.allocated_bytes == 0
    allocator.allocate(20 * MIB)
    assert allocator.reserved_bytes == 20 * MIB


def test_blocks_name_their_addresses():
    allocator = CachingAllocator()
    allocator.allocate(16 * MIB)
    allocator.allocate(512)
    assert [[block.address for block in blocks] for blocks in segments(allocator)] == [
        [0],
        [16 * MIB, 16 * MIB + 512],
    ]


class Naive:
    """The same rules as short as they go: all blocks in one sorted list, each search a scan."""

    def __init__(self, capacity_bytes):
        self.capacity_bytes = capacity_bytes
        self.segments = {}  # address → size
        self.blocks = []  # [address, size, is small, is free, segment]
        self.top = 0

    def allocate(self, size):
        size = -(-size // 512) * 512
        small = size <= MIB
        fits = [b for b in self.blocks if b[3] and b[2] == small and b[1] >= size]
        block = min(fits, key=lambda b: (b[1], b[0])) if fits else self.reserve(size, small)
        block[3] = False
        rest = block[1] - size
        if rest >= 512 if small else rest > MIB:
            block[1] = size
            self.blocks.append([block[0] + size, rest, small, True, block[4]])
            self.blocks.sort()
        return block

    def reserve(self, size, small):
        wanted = (
            2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // MIB // 2) * 2 * MIB
        )
        if sum(self.segments.values()) + wanted > self.capacity_bytes:
            whole = [b for b in self.blocks if b[3] and b[1] == self.segments[b[4]]]
            self.blocks = [b for b in self.blocks if b not in whole]
            for block in whole:
                del self.segments[block[4]]
        if sum(self.segments.values()) + wanted > self.capacity_bytes:
            raise OutOfMemoryError(size, 0, 0, 0, 0)
        self.segments[self.top] = wanted
        self.blocks.append([self.top, wanted, small, True, self.top])
        self.top += wanted
        return self.blocks[-1]

    def free(self, block):
        block[3] = True
        for first, second in zip(self.blocks[-2::-1], self.blocks[:0:-1], strict=True):
            if first[3] and second[3] and first[4] == second[4]:
                first[1] += second[1]
                self.blocks.remove(second)


SIZES = st.one_of(
    st.integers(1, 4096),
    st.integers(1, 3 * MIB),
    st.integers(1, 45).map(lambda n: n * MIB),
)
ACTIONS = st.lists(st.tuples(st.booleans(), SIZES, st.integers(0, 10**6)), max_size=60)


def drive(allocator, actions):
    """Allocate or free, by each action; yields what is in use, ``None`` where memory ran out."""
    used = []
    for frees, size, which in actions:
        if frees and used:
            allocator.free(used.pop(which % len(used)))
        else:
            try:
                used.append(allocator.allocate(size))
            except OutOfMemoryError:
                yield None
        yield used


@pytest.mark.parametrize("capacity_bytes", [64 * MIB, 150 * MIB, 10**12])
@pytest.mark.parametrize("unit_bytes", [512, 100_000, MIB // 3, MIB, 3 * MIB])
def test_equals_the_naive_one(unit_bytes, capacity_bytes):
    chance = random.Random(unit_bytes)
    actions = [
        (chance.random() < 0.48, chance.randint(1, 12) * unit_bytes, chance.randrange(10**6))
        for _ in range(300)
    ]
    naive = Naive(capacity_bytes)
    allocator = CachingAllocator(capacity_bytes)
    for one, other in zip(drive(naive, actions), drive(allocator, actions), strict=True):
        assert (one is None) == (other is None)
        blocks = itertools.chain(*segments(allocator))
        assert [[b.address, b.size_bytes, b.is_free] for b in blocks] == [
            [address, size, free] for address, size, _, free, _ in naive.blocks
        ]


def check(allocator):
    """What must hold at every moment."""
    end = 0
    for blocks in segments(allocator):
        assert blocks[0].address >= end
        end = blocks[0].address
        for block in blocks:
            assert block.address == end
            assert block.size_bytes > 0
            end += block.size_bytes
        assert not any(one.is_free and other.is_free for one, other in itertools.pairwise(blocks))
    blocks = [block for blocks in segments(allocator) for block in blocks]
    assert sum(b.size_bytes for b in blocks) == allocator.reserved_bytes
    assert sum(b.size_bytes for b in blocks if not b.is_free) == allocator.allocated_bytes
    assert allocator.allocated_bytes <= allocator.reserved_bytes


@examples(40)
@given(ACTIONS)
def test_invariants(actions):
    allocator = CachingAllocator(100 * MIB)
    peak_bytes = 0
    used = []
    for current in drive(allocator, actions):
        used = used if current is None else current
        check(allocator)
        assert allocator.reserved_bytes <= 100 * MIB
        peak_bytes = max(peak_bytes, allocator.reserved_bytes)
        assert allocator.peak_reserved_bytes == peak_bytes
    for handle in used:
        allocator.free(handle)
    check(allocator)
    assert allocator.allocated_bytes == 0
    assert all(len(blocks) == 1 for blocks in segments(allocator))


def test_replay_by_hand():
    events = [(1, 4 * MIB), (2, 700), (3, 0), (1, -4 * MIB), (3, 0), (1, 30 * MIB), (2, -700)]
    assert replay(events).reserved_bytes == 52 * MIB


def test_replay_within_a_capacity_gives_back_what_is_cached():
    events = [(1, 20 * MIB), (1, -20 * MIB), (2, 30 * MIB)]
    peak_bytes = replay(events, capacity_bytes=40 * MIB).reserved_bytes
    assert peak_bytes == 30 * MIB
    with pytest.raises(OutOfMemoryError) as caught:
        replay(events, capacity_bytes=29 * MIB)
    assert caught.value.missing_bytes == MIB


@pytest.mark.parametrize(
    ("events", "match"),
    [
        ([(7, -1)], "storage 7 of 0 bytes dies with 1"),
        ([(7, 2), (7, -1)], "storage 7 of 2 bytes dies with 1"),
        ([(7, 2), (7, 2)], "storage 7 is born twice"),
    ],
)
def test_replay_refuses_what_cannot_be(events, match):
    with pytest.raises(ValueError, match=match):
        replay(events)
