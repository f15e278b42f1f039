"""Peak bytes: sums of allocator events on a CPU, the allocator's own statistics elsewhere."""

import sys
import weakref

import pytest
import tiny
import torch

from bench.measure import memory
from bench.measure.memory import Event, Memory, replay

N, D = 8, 8
BOUNDARY = N * D * 4
RANDOM_STATE = torch.get_rng_state().nbytes  # kept by every recompute group


def events(*pairs):
    return [Event(time_ns, size_bytes) for time_ns, size_bytes in pairs]


# Replaying events.


def test_replay_adds_in_the_order_of_time():
    traced = events((1, 100), (2, 50), (3, -100), (5, 70), (6, 30), (7, -50), (8, -70))
    #        alive:      100      150       50  mark   120      150      100      30
    assert replay(traced, mark_ns=4) == Memory(150, 50)


def test_replay_counts_what_happens_at_the_mark_as_before_it():
    assert replay(events((1, 100), (4, 20), (4, -7), (5, 1)), mark_ns=4).after_forward_bytes == 113


def test_replay_of_nothing_is_nothing():
    assert replay([], mark_ns=4) == Memory(0, 0)


def test_replay_may_free_what_was_there_before():
    """The step begins at zero, so the end may be below it; the peak may not."""
    assert replay(events((1, -100), (2, 40)), mark_ns=1) == Memory(0, -100)


def test_replay_sees_a_peak_that_lasts_one_event():
    traced = events((1, 10), (2, 1000), (2, -1000), (3, 5))
    assert replay(traced, mark_ns=9).peak_bytes == 1010


def test_the_moment_of_the_peak_is_the_first_that_reaches_it():
    assert memory.peak_ns(events((1, 10), (2, 20), (3, -20), (4, 20))) == 2
    assert memory.peak_ns([]) == 0


def test_the_innermost_operator_is_named_but_for_allocating():
    spans = [
        memory.Span(0, 100, "aten::linear"),
        memory.Span(10, 50, "aten::addmm"),
        memory.Span(20, 30, "aten::empty"),
        memory.Span(60, 70, "aten::relu"),
    ]
    assert memory.operator_at(spans, 25) == "aten::addmm"
    assert memory.operator_at(spans, 55) == "aten::linear"
    assert memory.operator_at(spans, 70) == "aten::relu"
    assert memory.operator_at(spans, 101) is None


# The CPU's allocator.


def cpu_memory(step):
    step.drop_gradients()
    taken = memory.measure_cpu(step.forward, step.backward)
    step.drop_gradients()
    return taken


def test_measure_cpu_counts_known_tensors():
    """Two tensors live across the mark, a third is transient; the gradient of one stays."""
    weight = torch.ones(1000, requires_grad=True)

    def forward():
        doubled = weight * 2  # 4,000 bytes, not needed for backward
        squared = doubled**2  # 4,000 bytes; keeps `doubled`
        return squared.sum()

    taken = memory.measure_cpu(forward, torch.Tensor.backward)
    # `doubled`, the loss, and the eight bytes of the number 2 that the product keeps.
    assert 4004 <= taken.after_forward_bytes <= 4004 + 16
    assert taken.peak_bytes >= 12_000


def test_measure_cpu_is_the_same_every_time():
    step = tiny.step("gpt-mini")
    assert cpu_memory(step) == cpu_memory(step)


@pytest.mark.parametrize(
    ("plan", "groups"),
    [("0 1 2 3 4 5", 0), ("[0] [1] [2] [3] [4] [5]", 6), ("[0 1 2] [3 4] 5", 2)],
)
@pytest.mark.parametrize("workload", ["gpt-mini", "vit-mini"])
def test_measure_cpu_agrees_with_the_ledger(workload, plan, groups):
    """The allocator sees more, by 2 % at most: kernels' scratch, random states.

    After forward it is exact but for plain numbers, which each attention keeps one of.
    """
    sizes = {"gpt-mini": {"dim": 64, "seq": 128, "batch": 2}, "vit-mini": {"dim": 64, "image": 64}}
    step = tiny.step(workload, **sizes[workload])
    with tiny.under(step, plan):
        ledger = tiny.watch(step)
        taken = cpu_memory(step)
    resident_bytes = ledger.marks[0].alive_bytes
    peak_bytes = ledger.peak_bytes() - resident_bytes
    assert peak_bytes <= taken.peak_bytes <= 1.02 * peak_bytes
    more_bytes = taken.after_forward_bytes - tiny.saved_bytes(ledger)
    assert 0 <= more_bytes - groups * RANDOM_STATE <= 16 * 6


# Closed forms: what the papers' chain keeps, to the byte.


@pytest.mark.parametrize("layers", [2, 3, 8])
@pytest.mark.parametrize(
    ("spec", "groups"),
    [("none", 0), ("every_layer", None), ("every_k(k=2)", 2), ("every_k(k=3)", 3)],
)
def test_saved_bytes_of_the_chain(layers, spec, groups):
    """Each block keeps one [N, d] tensor, each group its input; the mean square keeps one too.

    Four bytes more are the loss.
    """
    record = tiny.measure("mlp-chain", spec, {"layers": layers, "batch": N, "dim": D})
    size = layers if groups == 0 else groups or 1
    count = 0 if groups == 0 else -(-layers // size)
    kept = layers if groups == 0 else count
    assert record.saved_after_forward_bytes == (kept + 1) * BOUNDARY + 4 + count * RANDOM_STATE
    assert record.parameter_bytes == (layers + 1) * (D * D + D) * 4
    assert record.gradient_bytes == record.parameter_bytes
    assert record.batch_bytes == 2 * BOUNDARY
    resident_bytes = record.parameter_bytes + record.batch_bytes
    assert record.after_forward_allocated_bytes == resident_bytes + record.saved_after_forward_bytes


@pytest.mark.parametrize(
    ("codec", "bytes_a_boundary"),
    [
        ("fp16", N * D * 2),
        ("bf16", N * D * 2),
        ("int8", N * D + 4),  # one scale for 64 values
        ("int4", N * D // 2 + 4),
        ("projection", N * D // 2 * 4),
    ],
)
def test_compressed_boundaries_of_the_chain(codec, bytes_a_boundary):
    record = tiny.record("mlp-chain", f"compressed(codec={codec})")
    layers = tiny.OPTIONS["mlp-chain"]["layers"]
    expected = layers * (bytes_a_boundary + RANDOM_STATE) + BOUNDARY + 4
    assert record.saved_after_forward_bytes == expected


def test_offloaded_boundaries_of_the_chain():
    record = tiny.record("mlp-chain", "offload")
    layers = tiny.OPTIONS["mlp-chain"]["layers"]
    assert record.saved_after_forward_bytes == layers * RANDOM_STATE + BOUNDARY + 4


def test_peak_of_the_chain():
    """With a batch of one, weights decide: the peak is in the last backward, the stem's.

    Alive are all gradients; that of the stem's output; the loss and its gradient, a number each.
    """
    record = tiny.measure("mlp-chain", options={"batch": 1, "dim": D})
    resident_bytes = record.parameter_bytes + record.batch_bytes
    assert record.peak_allocated_bytes == resident_bytes + record.parameter_bytes + D * 4 + 8


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_peak_is_at_least_what_is_allocated():
    before = memory.resident_peak_bytes()
    held = torch.ones(64 << 20, dtype=torch.uint8)
    assert memory.resident_peak_bytes() >= max(before, held.nbytes)


# An accelerator.


class Backend:
    """Keeps books as ``torch.accelerator`` does, and the order in which it is asked."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.allocated = self.peak = 0
        self.loss = lambda: None
        self.loss_alive = []  # at each reading
        for name in ("empty_cache", "reset_peak_memory_stats"):
            self._replace(monkeypatch, torch.accelerator.memory, name)
        for name in ("memory_allocated", "max_memory_allocated", "max_memory_reserved"):
            self._replace(monkeypatch, torch.accelerator.memory, name)
        self._replace(monkeypatch, torch.accelerator, "synchronize")

    def _replace(self, monkeypatch, owner, name):
        def call():
            self.calls.append(name)
            return getattr(self, name)()

        monkeypatch.setattr(owner, name, call)

    def allocate(self, size_bytes):
        self.allocated += size_bytes
        self.peak = max(self.peak, self.allocated)

    def empty_cache(self):
        pass

    synchronize = empty_cache

    def reset_peak_memory_stats(self):
        self.peak = self.allocated

    def memory_allocated(self):
        self.loss_alive.append(self.loss() is not None)
        return self.allocated

    def max_memory_allocated(self):
        return self.peak

    def max_memory_reserved(self):
        return 2 << 20


class Step:
    """A step that allocates in known sizes; its first run needs a workspace that then stays."""

    def __init__(self, backend):
        self.backend, self.runs = backend, 0

    def forward(self):
        self.backend.calls.append("forward")
        self.backend.allocate(5000 if not self.runs else 0)
        self.runs += 1
        self.backend.allocate(100)
        loss = torch.zeros(1)
        self.backend.loss = weakref.ref(loss)
        return loss

    def backward(self, loss):
        self.backend.calls.append("backward")
        self.backend.allocate(60)
        self.backend.allocate(-130)  # what is left of 100 and 60 are 30 of gradients

    def drop_gradients(self):
        self.backend.calls.append("drop_gradients")
        self.backend.allocate(-30)


def test_measure_accelerator_asks_in_the_right_order(monkeypatch):
    backend = Backend(monkeypatch)
    step = Step(backend)
    memory.warm_accelerator(step.forward, step.backward, step.drop_gradients)
    assert backend.calls == ["forward", "backward", "drop_gradients"]
    backend.calls.clear()
    memory.measure_accelerator(step.forward, step.backward)
    assert backend.calls == [
        "empty_cache",
        "synchronize",
        "reset_peak_memory_stats",
        "memory_allocated",
        "forward",
        "memory_allocated",
        "backward",
        "synchronize",
        "max_memory_allocated",
        "max_memory_reserved",
    ]


def test_measure_accelerator_counts_from_where_it_began(monkeypatch):
    backend = Backend(monkeypatch)
    backend.allocate(10_000)  # the model
    step = Step(backend)
    memory.warm_accelerator(step.forward, step.backward, step.drop_gradients)
    taken = memory.measure_accelerator(step.forward, step.backward)
    assert taken == Memory(160, 100, reserved_bytes=2 << 20, before_bytes=15_000)
    # Before the step, and after forward.
    assert backend.loss_alive == [False, True]


@pytest.mark.parametrize("given", [False, True])
def test_a_model_that_has_run_is_not_run_again(monkeypatch, given):
    """What runs it counts: a second step would move its running statistics, and its recomputation
    would be counted twice."""
    backend = Backend(monkeypatch)
    step = Step(backend)
    step.device, step.update = torch.device("meta"), lambda: None
    memory.step_memory(step, step.forward if given else None)
    assert step.runs == (1 if given else 2)


def test_a_step_settles_before_its_memory_is_read():
    kept = []
    usage = memory.step_memory(
        tiny.step("mlp-chain"), settle=lambda: kept.append(torch.ones(1 << 24))
    )
    assert usage.peak_bytes > kept[0].nbytes == 1 << 26
