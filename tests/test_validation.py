"""Simulated against real: on this CPU to the byte, on an accelerator through its statistics."""

from __future__ import annotations

import dataclasses
import os
import re

import msgspec
import pytest
import torch
from effort import few
from simulated import TINY, cell, simulation
from typer.testing import CliRunner

import strategies
from bench import __main__ as command_line
from bench.cells.cell import Cell, checked
from bench.cells.training import TrainingStep
from bench.measure import memory
from bench.simulate import semantics
from bench.simulate.free_blocks import GRANULE_BYTES
from bench.simulate.replay import replay
from bench.studies import validation
from bench.studies.validation import Row, compare, planned_specs
from strategies.profiling.quiet import silenced

# Large enough that kernels' scratch memory is little beside the tensors.
LARGE = {
    "mlp-chain": {"layers": 3, "dim": 64, "batch": 4096},
    "gpt-mini": {"layers": 3, "dim": 64, "heads": 2, "seq": 256, "batch": 2},
    "gpt-mini-dropout": {"layers": 3, "dim": 64, "heads": 2, "seq": 256, "batch": 2},
    "llama-mini": {"layers": 3, "dim": 64, "heads": 4, "ffn": 172, "seq": 256, "batch": 2},
    "vit-mini": {"layers": 3, "dim": 64, "heads": 2, "image": 64, "batch": 8},
}
MIXED = (
    ("gpt-mini-dropout", "sqrt", "fp32", "adamw"),
    ("gpt-mini-dropout", "none", "bf16", "sgd"),
    ("gpt-mini-dropout", "every_layer", "bf16-autocast", "none"),
    ("llama-mini", "every_layer", "bf16-autocast", "adamw"),
    ("llama-mini", "compressed(codec=int8)", "fp16", "none"),
    ("vit-mini", "flash_checkpoint", "bf16", "none"),
    ("resnet-mini", "none", "bf16-autocast", "none"),
    ("resnet-mini", "every_k(k=2)", "fp32", "adamw"),
)
# Runs of blocks of other lengths than one: these need a third block.
GROUPED = ("sqrt", "every_k(k=2)")
SCRATCH_OF_CONVOLUTIONS = {"aten::clone", "aten::convolution_backward", "aten::add"}


@pytest.fixture
def tensors_only(monkeypatch):
    """Leaves the allocator out."""
    monkeypatch.setattr(memory, "measure_cpu", lambda *_: memory.Memory(1, 1))


def on_cpu(workload, spec, **given):
    simulated_cell = cell(workload, spec, **given)
    return msgspec.structs.replace(simulated_cell, device="cpu")


def refuses(workload, spec):
    """No sub-modules to recompute, no attention to switch, or attention dropout on a CPU."""
    if workload in ("mlp-chain", "resnet-mini"):
        return spec.startswith("selective") or spec == "flash_checkpoint"
    return (workload, spec) == ("gpt-mini-dropout", "flash_checkpoint")


PAIRS = [(workload, spec) for workload in TINY for spec in planned_specs()]
# In a short run: every strategy on one model, and every model under one strategy.
SHORT_PAIRS = [
    pytest.param(*pair, marks=[pytest.mark.long] * (not {"gpt-mini", "every_layer"} & set(pair)))
    for pair in PAIRS
    if not refuses(*pair)
]


@pytest.mark.usefixtures("tensors_only")
@pytest.mark.parametrize(("workload", "spec"), SHORT_PAIRS)
def test_simulated_bytes_are_real_bytes(workload, spec):
    fewer = {} if spec in GROUPED or workload == "resnet-mini" else {"layers": 2}
    row = compare(on_cpu(workload, spec, **fewer))
    assert (row.tensor_peak_error, row.after_forward_error) == (0, 0)
    assert 0 < row.simulated_after_forward_bytes < row.simulated_peak_bytes


@pytest.mark.parametrize(("workload", "spec"), [p for p in PAIRS if refuses(*p)])
def test_what_cannot_run_is_refused_by_both(workload, spec):
    with pytest.raises(strategies.Unsupported):
        compare(on_cpu(workload, spec))
    step = TrainingStep.build(cell(workload).make_workload(), torch.device("cpu"))
    with pytest.raises(strategies.Unsupported):
        strategies.apply(step.model, spec, blocks=step.workload.blocks)


@pytest.mark.usefixtures("tensors_only")
@pytest.mark.parametrize(("workload", "spec", "precision", "optimizer"), few(MIXED, 4))
def test_simulated_bytes_are_real_bytes_in_mixed_precision(workload, spec, precision, optimizer):
    """And with an optimizer, whose update may be where the peak is."""
    row = compare(on_cpu(workload, spec, precision=precision, optimizer=optimizer))
    assert (row.tensor_peak_error, row.after_forward_error) == (0, 0)


@pytest.mark.parametrize("workload", few(LARGE))
@pytest.mark.parametrize("spec", ["none", "every_layer"])
def test_allocator_peak_is_close(workload, spec):
    """Within 2 % and never below the tensors: the rest is scratch memory of a named operator."""
    row = compare(on_cpu(workload, spec, **LARGE[workload]))
    assert (row.tensor_peak_error, row.after_forward_error) == (0, 0)
    assert -0.02 < row.allocator_error < 1e-4
    assert row.scratch.startswith("aten::")


def test_allocator_peak_with_an_optimizer():
    row = compare(on_cpu("gpt-mini", "every_layer", optimizer="adamw", **LARGE["gpt-mini"]))
    assert abs(row.allocator_error) < 0.02


def test_scratch_of_convolutions_is_named():
    """Their backward packs operands anew: 7 % that no tensor shows, in an operator of theirs."""
    row = compare(on_cpu("resnet-mini", "none", dim=8, batch=8))
    assert (row.tensor_peak_error, row.after_forward_error) == (0, 0)
    assert -0.15 < row.allocator_error < 0.001
    assert row.scratch in SCRATCH_OF_CONVOLUTIONS


@pytest.mark.usefixtures("tensors_only")
def test_a_difference_is_found(monkeypatch):
    """Fake batch norms keep statistics in half under autocast, if nothing corrects them."""

    def uncorrected(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))

    wanted = on_cpu("resnet-mini", "none", precision="bf16-autocast")
    with monkeypatch.context() as without:
        without.setattr(semantics.Kernels, "__torch_dispatch__", uncorrected)
        assert compare(wanted).after_forward_error < 0
    assert compare(wanted).after_forward_error == 0


# Accelerators: steps run on the meta device, under statistics that are given.


class Statistics:
    """Stands in for ``torch.accelerator`` and writes down what happens in which order."""

    def __init__(self, monkeypatch, before, peak, reserved):
        self.calls = []
        memory_of = torch.accelerator.memory
        for owner, name, value in (
            (memory_of, "empty_cache", None),
            (torch.accelerator, "synchronize", None),
            (memory_of, "reset_peak_memory_stats", None),
            (memory_of, "memory_allocated", before),
            (memory_of, "max_memory_allocated", peak),
            (memory_of, "max_memory_reserved", reserved),
        ):
            monkeypatch.setattr(owner, name, self.call(name, value))
        for name in ("forward", "backward", "update", "drop_gradients"):
            self.listen(monkeypatch, name)

    def call(self, name, value):
        def noted():
            self.calls.append(name)
            return value

        return noted

    def listen(self, monkeypatch, name):
        original = getattr(TrainingStep, name)

        def noted(step, *args):
            if step.device.type == "meta":
                self.calls.append(name)
            return original(step, *args)

        monkeypatch.setattr(TrainingStep, name, noted)


def elsewhere(workload, spec, **given):
    return msgspec.structs.replace(cell(workload, spec, **given), device="meta")


def test_accelerator_statistics_are_taken_in_order(monkeypatch):
    statistics = Statistics(monkeypatch, before=0, peak=10**6, reserved=2**21)
    compare(elsewhere("gpt-mini", "every_layer"))
    step = ["forward", "backward", "update"]
    assert (
        statistics.calls
        == [
            "drop_gradients",
            *step,  # warm up
            "drop_gradients",
            "empty_cache",
            "synchronize",
            "reset_peak_memory_stats",
            "memory_allocated",
            "forward",
            "memory_allocated",
            *step[1:],
            "synchronize",
            "max_memory_allocated",
            "max_memory_reserved",
        ]
    )


@pytest.mark.parametrize("excess", [0, 51200])
@pytest.mark.parametrize("spec", few(["every_layer", "none"]))
def test_accelerator_is_compared_with_its_kernels(monkeypatch, spec, excess):
    """What it allocates above what was there, rounded as its allocator does; and what it reserves.

    Other tensors of the process, here 1 MiB, do not count.
    """
    trace = simulation("gpt-mini-dropout", spec).trace
    resident = trace.resident_bytes(GRANULE_BYTES)
    peak = max(trace.alive_bytes(GRANULE_BYTES))
    reserved_bytes = replay((e.life, e.delta_bytes) for e in trace.events)
    before = 2**20 + resident
    Statistics(monkeypatch, before, before + peak - resident + excess, 4 * 2**20)
    row = compare(elsewhere("gpt-mini-dropout", spec))
    assert row == Row(
        workload="gpt-mini-dropout",
        strategy=spec,
        simulated_peak_bytes=peak,
        simulated_after_forward_bytes=trace.after_forward_bytes(GRANULE_BYTES),
        tensor_peak_error=None,
        after_forward_error=None,
        allocator_peak_bytes=peak + excess,
        allocator_error=peak / (peak + excess) - 1,
        reserved_error=reserved_bytes / (4 * 2**20) - 1,
        scratch=None,
    )


# The table and the command.

ROW = Row(
    workload="mlp-chain",
    strategy="none",
    simulated_peak_bytes=100,
    simulated_after_forward_bytes=50,
    tensor_peak_error=0,
    after_forward_error=0,
    allocator_peak_bytes=101,
    allocator_error=-0.0099,
    reserved_error=None,
    scratch="aten::mm",
)


def test_rows_are_every_strategy_that_runs(monkeypatch):
    seen = []

    def measured(wanted):
        seen.append((wanted.workload, wanted.spec, wanted.device, wanted.rounds))
        if wanted.spec == "sqrt":
            raise strategies.Unsupported("not here")
        return dataclasses.replace(ROW, strategy=wanted.spec)

    monkeypatch.setattr(validation, "compare", measured)
    bases = [checked(Cell(workload=name, spec="none")) for name in ("mlp-chain", "vit-mini")]
    found = list(validation.rows([msgspec.structs.replace(base, rounds=0) for base in bases]))
    specs = planned_specs()
    assert seen == [(w, s, "cpu", 0) for w in ("mlp-chain", "vit-mini") for s in specs]
    assert [row.strategy for row in found] == [s for s in specs if s != "sqrt"] * 2


def test_errors_are_printed_in_per_cent():
    on_device = dataclasses.replace(ROW, reserved_error=0.1, tensor_peak_error=None)
    first, second = validation.as_dicts([ROW, on_device])
    assert (first["allocator_error"], first["reserved_error"]) == ("-0.99 %", "")
    assert second["reserved_error"] == "+10.00 %"
    assert second["tensor_peak_error"] is None


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ({}, 0),
        ({"tensor_peak_error": 8}, 1),
        ({"after_forward_error": -4}, 1),
        ({"tensor_peak_error": None, "after_forward_error": None}, 0),
    ],
)
def test_command_fails_if_bytes_differ(monkeypatch, errors, code):
    row = dataclasses.replace(ROW, **errors)
    monkeypatch.setattr(validation, "compare", lambda _: row)
    flags = ("validate", "--device", "cpu", "--workload", "mlp-chain")
    done = CliRunner().invoke(command_line.app, flags)
    assert done.exit_code == code
    assert re.search(r"\| mlp-chain +\| none +\| +100 \|", done.output)


def test_silenced_drops_what_is_printed_below_python(capfd):
    os.write(1, b"before")
    with silenced():
        os.write(1, b"lost")
        os.write(2, b"lost")
    os.write(1, b", after")
    assert capfd.readouterr() == ("before, after", "")


def test_silenced_speaks_again_after_an_error(capfd):
    with pytest.raises(KeyError), silenced():
        raise KeyError
    os.write(2, b"after")
    assert capfd.readouterr() == ("", "after")
