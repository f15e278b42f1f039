"""Simulated cells: offloading, what does not fit, what cannot be simulated, and the record."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import command
import msgspec
import pytest
import simulated
import torch
from effort import few
from simulated import (
    TINY,
    Branching,
    after_forward,
    cell,
    kept_bytes,
    register,
    simulate,
    simulation,
)
from torch import nn
from torch.nn import functional as F

import strategies
from bench import workloads
from bench.devices import accelerators
from bench.run import executor, worker
from bench.simulate.errors import NeedsValueError
from bench.simulate.record import fit_in
from bench.simulate.replay import replay, steady
from bench.simulate.run import trace_cell
from bench.simulate.trace import BACKWARD, FORWARD, Event, Life, Trace
from strategies.profiling.free_blocks import GRANULE_BYTES
from strategies.storage import Disk

LAYERS = TINY["gpt-mini"]["layers"]
VALUES = TINY["gpt-mini"]["batch"] * TINY["gpt-mini"]["seq"] * TINY["gpt-mini"]["dim"]
BOUNDARY = 4 * VALUES
GIB = 2**30


@pytest.fixture
def add(monkeypatch):
    """Makes a workload of blocks of a kind, and names it."""

    def named(kind):
        registry = dict(workloads._registry())
        register(registry, "custom", kind)
        monkeypatch.setattr(workloads, "_registry", lambda: registry)
        return "custom"

    return named


# Offloading.


def transfers(spec, **given):
    trace = simulation("gpt-mini", spec, **given).trace
    return trace, [(copy.to_host, copy.size_bytes) for copy in trace.transfers]


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("bf16", 2)])
def test_offload_copies_each_boundary_out_and_back(precision, width):
    trace, copies = transfers("offload", precision=precision)
    assert copies == [(True, width * VALUES)] * LAYERS + [(False, width * VALUES)] * LAYERS
    positions = [copy.position for copy in trace.transfers]
    assert positions == sorted(positions)
    forward_operators = sum(work.phase == FORWARD for work in trace.work)
    assert positions[LAYERS - 1] < forward_operators <= positions[LAYERS]


def test_offload_frees_the_device():
    """Only x_L, which the final norm keeps and which is no block's input, stays."""
    none = after_forward(simulation("gpt-mini", "every_layer").trace)
    offloaded = after_forward(simulation("gpt-mini", "offload").trace)
    assert none.pop("boundary activations") == (LAYERS + 1) * BOUNDARY
    assert offloaded.pop("boundary activations") == BOUNDARY
    assert offloaded == none


def test_offload_fetches_one_boundary_at_a_time_in_reverse():
    trace = simulation("gpt-mini", "offload").trace
    fetched = [life for life in trace.lives if life.operator == "empty_strided"]
    assert [life.module for life in fetched] == ["h.2", "h.1", "h.0"]
    assert {(life.category, life.phase, life.size_bytes) for life in fetched} == {
        ("boundary activations", BACKWARD, BOUNDARY)
    }
    ends = [life.died for life in fetched]
    assert all(end < life.born for end, life in zip(ends, fetched[1:], strict=False))


@pytest.mark.parametrize("tier", ["host", "disk", "auto"])
def test_simulated_offload_writes_no_file(tier, monkeypatch):
    def fail(*_):
        pytest.fail("a simulated boundary went to disk")

    monkeypatch.setattr(Disk, "put", fail)
    found = trace_cell(cell("gpt-mini", f"offload(tier={tier})")).trace.transfers
    assert found == simulation("gpt-mini", "offload").trace.transfers


def test_host_memory_is_another_place_on_an_accelerator_only():
    with pytest.raises(strategies.Unsupported, match="in host memory already"):
        trace_cell(cell("gpt-mini", "offload(tier=host)"), as_cuda=False)


SIZES = {
    "bf16": [2 * VALUES],
    "fp16": [2 * VALUES],
    "int8": [VALUES, 4 * VALUES // 64],
    "int4": [VALUES // 2, 4 * VALUES // 64],
    "projection": [4 * VALUES // 2],
}


@pytest.mark.parametrize("codec", SIZES)
def test_compressed_boundaries_take_what_the_codec_says(codec):
    trace = simulation("gpt-mini", f"compressed(codec={codec})").trace
    found = after_forward(trace)
    assert found["boundary activations"] == LAYERS * sum(SIZES[codec]) + BOUNDARY
    assert "saved tensors" not in found
    assert not trace.transfers


@pytest.mark.parametrize("codec", ["int8", "projection"])
def test_compressed_boundaries_are_offloaded_compressed(codec):
    _, copies = transfers(f"offload(over=compressed(codec={codec}))")
    sizes = SIZES[codec] * LAYERS
    assert copies == [(True, size) for size in sizes] + [(False, size) for size in sizes]


# Models that need values.


def block(look):
    """Blocks that do ``look`` at their input first."""

    class Looking(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.linear = nn.Linear(dim, dim)

        def forward(self, x):
            look(x)
            return self.linear(x)

    return Looking


def line_of(path, text):
    lines = Path(path).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(text))


@pytest.mark.parametrize("spec", ["none", "every_layer", "every_k(k=2)", "offload"])
def test_branching_on_a_value_names_the_line(add, spec):
    """Whatever stands between the model and the tensor: checkpoints, hooks, modes."""
    with pytest.raises(NeedsValueError) as caught:
        simulate(cell(add(Branching), spec))
    path = simulated.__file__
    line = line_of(path, "# this line is to be named")
    assert str(caught.value).startswith(f"{path}:{line} (if x.sum() > 0:")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x + 1),
        lambda x: x.detach().numpy(),
    ],
    ids=["item", "tolist", "nonzero", "mask", "equal", "numpy"],
)
def test_every_way_to_need_a_value(add, look):
    """The line is that of the lambda."""
    with pytest.raises(NeedsValueError) as caught:
        simulate(cell(add(block(look))))
    assert str(caught.value).startswith(f"{__file__}:{look.__code__.co_firstlineno} (lambda x: ")


def test_other_errors_of_a_model_are_its_own(add):
    def fail(x):
        raise RuntimeError("of the model")

    with pytest.raises(RuntimeError, match="of the model") as caught:
        simulate(cell(add(block(fail))))
    assert not isinstance(caught.value, NeedsValueError)


def test_command_line_ends_in_one_sentence_and_exit_code_2(add, monkeypatch, capfd):
    fork = multiprocessing.get_context("fork")  # the registry goes along
    monkeypatch.setattr(executor, "_context", lambda preload: fork)
    flags = ("--strategy", "none", "--device", simulated.DEVICE)
    done = command.run("run", "--workload", add(Branching), *flags)
    line = line_of(simulated.__file__, "# this line is to be named")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {simulated.__file__}:{line} (if x.sum")
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert capfd.readouterr() == ("", "")  # nor does the cell's own process say anything


# What fits.


def made_of(*deltas):
    """A trace of births (positive) and deaths (the life's number), in GiB."""
    lives, events = [], []
    for delta in deltas:
        if isinstance(delta, str):
            life = lives[int(delta)]
            life.died = len(events)
            events.append(Event(int(delta), -life.size_bytes, FORWARD, "", ""))
        else:
            lives.append(Life(delta * GIB, FORWARD, "", "", born=len(events)))
            events.append(Event(len(lives) - 1, delta * GIB, FORWARD, "", ""))
    count = len(events)
    return Trace(lives, events, [], [], 0, count, 0, 0, 0)


def said(fit):
    """Status, and the peaks that a step alone has."""
    return fit.status, fit.peak_allocated_bytes, fit.peak_reserved_bytes


def stated(reason):
    """Needed, available and missing GB of a reason."""
    pattern = r"needs ([\d.]+) GB of ([\d.]+) GB: ([\d.e+]+) GB missing"
    return [float(text) for text in re.fullmatch(pattern, reason).groups()]


def test_fragmentation_can_run_out_of_memory():
    """Of 4 GiB in one segment, 2 are free in two pieces; a request of 2 wants a new segment.

    5 GiB would hold the 4 that are alive, but reserve 4 and lack 1 of the 2 asked for.
    """
    trace = made_of(4, "0", 1, 1, 1, 1, "1", "3", 2)
    found = fit_in(trace, 5 * GIB)
    assert found.status == "oom"
    assert found.peak_allocated_bytes == 4 * GIB
    assert found.peak_reserved_bytes == 6 * GIB
    assert stated(found.reason) == [
        pytest.approx(6 * GIB / 1e9, abs=0.005),
        pytest.approx(5 * GIB / 1e9, abs=0.005),
        pytest.approx(GIB / 1e9, abs=0.005),
    ]
    assert said(fit_in(trace, 6 * GIB)) == ("ok", 4 * GIB, 6 * GIB)


def test_cache_is_given_back_before_memory_runs_out():
    """3 GiB come after 2 were freed: they need not be there together, and what is kept is 3."""
    trace = made_of(2, "0", 3)
    assert said(fit_in(trace, 3 * GIB)) == ("ok", 3 * GIB, 3 * GIB)
    assert fit_in(trace, 10 * GIB).peak_reserved_bytes == 5 * GIB


def test_little_is_missing():
    """Not «0.00 GB missing»."""
    found = fit_in(made_of(4), 4 * GIB - 2**20)
    assert stated(found.reason)[2] == pytest.approx(2**20 / 1e9, rel=0.01)


@pytest.mark.parametrize("spec", ["none", "every_layer", "compressed(codec=int4)"])
def test_what_fits_exactly(spec):
    trace = simulation("gpt-mini", spec).trace
    allocated = max(trace.alive_bytes(GRANULE_BYTES))
    free_bytes = steady(trace).reserved_bytes
    usage = replay([(e.life, e.delta_bytes) for e in trace.events])
    assert free_bytes >= usage.reserved_bytes >= allocated
    fits = fit_in(trace, free_bytes)
    assert said(fits) == ("ok", allocated, free_bytes)
    refused = fit_in(trace, allocated - 1)
    assert refused.reason
    assert refused == msgspec.structs.replace(fits, status="oom", reason=refused.reason)


def test_what_is_said_to_be_missing_is_missing():
    """Grown by what is missing again and again, a device fits it, at no more than it reserves."""
    trace = simulation("gpt-mini", "none", batch=16, dim=64).trace
    most = fit_in(trace, 2**40).peak_reserved_bytes
    memory = max(trace.alive_bytes()) // 2
    tries = 0
    while (found := fit_in(trace, memory)).status == "oom":
        missing = stated(found.reason)[2] * 1e9
        assert missing > 0
        memory += missing * 1.01  # it is rounded to three digits
        tries += 1
    assert 1 <= tries <= 10
    assert memory <= 1.05 * most


def test_large_model_on_small_devices():
    """Two blocks of GPT-3: the weights alone fill an L4, and a step fits an H200."""
    small = simulate(cell("gpt3-175b", "every_layer", device="sim:l4-24gb", layers=2))
    large = simulate(cell("gpt3-175b", "every_layer", device="sim:h200-141gb", layers=2))
    memory = accelerators.get("l4-24gb").memory_bytes
    needed, available, missing = stated(small["reason"])
    assert (small["status"], large["status"]) == ("oom", "ok")
    assert large["reason"] is None
    assert available == round(memory / 1e9, 2)
    assert needed == pytest.approx(available + missing, rel=0.01)
    assert missing * 1e9 == pytest.approx(small["peak_allocated_bytes"] - memory, rel=0.01)
    for found in (small, large):
        assert found["peak_reserved_bytes"] >= found["peak_allocated_bytes"]
        assert found["peak_allocated_bytes"] > found["parameter_bytes"] + found["gradient_bytes"]


# The record.


class Unused(nn.Module):
    """A block with a weight that the loss does not depend on."""

    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.spare = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.linear(x)


def test_missing_gradients_are_a_mismatch(add):
    found = simulate(cell(add(Unused)))
    assert found["status"] == "mismatch"
    assert found["grads_missing"] == ["1.0.spare", "1.1.spare"]
    assert found["reason"] == "no gradient for 1.0.spare, 1.1.spare"


class Frozen(nn.Module):
    """A block with a weight that is not trained."""

    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.linear.bias.requires_grad_(False)

    def forward(self, x):
        return F.gelu(self.linear(x))


def test_frozen_weights_have_neither_gradient_nor_state(add):
    found = simulate(cell(add(Frozen), optimizer="adamw"))
    frozen = 2 * 8 * 4
    assert (found["status"], found["grads_missing"]) == ("ok", [])
    assert found["gradient_bytes"] == found["parameter_bytes"] - frozen
    assert found["optimizer_bytes"] == 2 * found["gradient_bytes"]


@pytest.mark.parametrize(
    ("workload", "spec", "given"),
    few(
        [
            ("gpt-mini", "every_layer", {"optimizer": "adamw"}),
            ("gpt-mini", "none", {}),
            ("resnet-mini", "sqrt", {"optimizer": "adamw", "precision": "bf16-autocast"}),
            ("llama-mini", "offload", {"precision": "fp16", "optimizer": "sgd"}),
        ],
        2,
    ),
)
def test_record_fields_agree_with_the_trace(workload, spec, given):
    found = simulate(cell(workload, spec, **given))
    made = simulation(workload, spec, **given)
    trace, model = made.trace, made.step.model
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    states = {"adamw": 2, "sgd": 1}.get(given.get("optimizer"), 0)
    assert found["parameter_bytes"] == found["gradient_bytes"] == parameters
    assert found["optimizer_bytes"] == states * parameters
    assert found["buffer_bytes"] == sum(b.numel() * b.element_size() for b in model.buffers())
    assert found["batch_bytes"] == sum(t.numel() * t.element_size() for t in made.step.batch)
    assert found["saved_after_forward_bytes"] == kept_bytes(trace)
    assert found["after_forward_allocated_bytes"] == trace.after_forward_bytes(512)
    assert found["peak_allocated_bytes"] == max(trace.alive_bytes(512))
    assert found["peak_reserved_bytes"] >= found["peak_allocated_bytes"]
    assert found["modelled_step_s"] > 0
    assert found["status"] == "ok"


@pytest.mark.parametrize(
    ("spec", "given", "kernel", "storage"),
    [
        ("none", {}, "math", None),
        ("none", {"attention": "flash"}, "flash", None),
        ("flash_checkpoint", {}, "sdpa-flash", None),
        ("offload", {}, "math", "raw on host"),
        ("compressed(codec=int8)", {}, "math", "int8 on device"),
    ],
)
def test_record_names_kernel_and_storage(spec, given, kernel, storage):
    found = simulate(cell("gpt-mini", spec, **given))
    assert (found["attention_kernel"], found["storage"]) == (kernel, storage)


def test_workloads_without_attention_name_no_kernel():
    assert simulate(cell("mlp-chain"))["attention_kernel"] is None


def test_record_carries_the_notes_of_the_strategy():
    spec = "every_k(k=8)"
    found = simulate(cell("mlp-chain", spec))
    made = simulation("mlp-chain", spec)
    assert found["notes"] == list(strategies.get(spec).notes(made.prepared.chain)) != []


def test_worker_makes_a_record():
    record = worker.measure(cell("resnet-mini", "every_layer", optimizer="adamw"))
    assert record.modelled
    assert record.status == "ok"
    assert record.device == simulated.DEVICE
    assert record.device_name == accelerators.get(simulated.DEVICE).product
    assert record.machine_id == "simulated"
    assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record
