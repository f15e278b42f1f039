"""Simulated against real: on this CPU to the byte, on an accelerator through its statistics."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

import msgspec
import pytest
import torch
from effort import few
from simulated import TINY, cell, simulation
from typer.testing import CliRunner

import strategies
from bench import __main__ as command_line
from bench.cells import machine
from bench.cells.cell import Cell, checked
from bench.cells.training import TrainingStep
from bench.measure import memory
from bench.report import validations as report
from bench.simulate import semantics
from bench.simulate.replay import replay
from bench.store import validations
from bench.store.validations import Row
from bench.studies import validation
from bench.studies.validation import compare, planned_specs
from strategies.profiling.free_blocks import GRANULE_BYTES
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
    """What it allocates above what was there, in its allocator's blocks; and what it reserves.

    Other tensors of the process, here 1 MiB, do not count.
    """
    trace = simulation("gpt-mini-dropout", spec).trace
    resident = trace.resident_bytes(GRANULE_BYTES)
    usage = replay((e.life, e.delta_bytes) for e in trace.events)
    before, peak = 2**20 + resident, usage.allocated_bytes
    Statistics(monkeypatch, before, before + peak - resident + excess, 4 * 2**20)
    row = compare(elsewhere("gpt-mini-dropout", spec))
    assert row == Row(
        strategy=spec,
        simulated_peak_bytes=peak,
        real_tensor_peak_bytes=None,
        simulated_after_forward_bytes=trace.after_forward_bytes(GRANULE_BYTES),
        real_after_forward_bytes=None,
        allocator_peak_bytes=peak + excess,
        simulated_reserved_bytes=usage.reserved_bytes,
        allocator_reserved_bytes=4 * 2**20,
        scratch=None,
    )
    assert row.allocator_error == peak / (peak + excess) - 1
    assert row.reserved_error == usage.reserved_bytes / (4 * 2**20) - 1
    assert row.tensor_peak_error is row.after_forward_error is None


# The table and the command.

ROW = Row(
    strategy="none",
    simulated_peak_bytes=100,
    real_tensor_peak_bytes=100,
    simulated_after_forward_bytes=50,
    real_after_forward_bytes=50,
    allocator_peak_bytes=101,
    simulated_reserved_bytes=200,
    allocator_reserved_bytes=None,
    scratch="aten::mm",
)
ON_DEVICE = msgspec.structs.replace(
    ROW,
    strategy="sqrt",
    real_tensor_peak_bytes=None,
    real_after_forward_bytes=None,
    allocator_peak_bytes=125,
    allocator_reserved_bytes=160,
)


def test_a_study_is_of_every_strategy_that_runs(monkeypatch):
    seen = []

    def measured(wanted):
        seen.append((wanted.workload, wanted.spec, wanted.device, wanted.precision, wanted.rounds))
        if wanted.spec == "sqrt":
            raise strategies.Unsupported("not here")
        return msgspec.structs.replace(ROW, strategy=wanted.spec)

    monkeypatch.setattr(validation, "compare", measured)
    base = checked(Cell(workload="vit-mini", spec="none", precision="bf16", rounds=0))
    study = validation.study(base)
    specs = planned_specs()
    assert seen == [("vit-mini", spec, "cpu", "bf16", 0) for spec in specs]
    assert [row.strategy for row in study.rows] == [s for s in specs if s != "sqrt"]
    assert (study.workload, study.precision, study.device) == ("vit-mini", "bf16", "cpu")
    assert study.torch_version == torch.__version__


def stored(*rows, **changes):
    fields = {"workload": "mlp-chain", "precision": "fp32", "device": "cpu", "device_name": "A CPU"}
    provenance = machine.provenance(validations.SCHEMA_VERSION, 0)
    return validations.Validation(**provenance, **{**fields, **changes}, rows=list(rows))


def test_the_table_says_how_far_the_simulation_is_off():
    on_device = stored(ON_DEVICE, device="cuda", device_name="A GPU")
    text = report.markdown([stored(ROW), on_device])
    lines = [
        [c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line
    ]
    assert lines[2][5:] == ["1", "0.00 %", "0.00 %", "none", ""]
    assert lines[3][1:4] == ["cuda (A GPU)", "fp32", "1"]
    assert lines[3][5:] == ["0", "-20.00 %", "-20.00 %", "sqrt", "25.0 %"]
    sentence = report.sentence([stored(ROW), on_device])
    assert "A CPU: 1 of 1 peaks to the byte, median error 0.00 %, worst 0.00 %" in sentence
    assert "A GPU: 0 of 1 peaks to the byte, median error 20.00 %, worst -20.00 %" in sentence


def test_what_is_written_is_read_back(tmp_path):
    one = stored(ROW, ON_DEVICE, precision="bf16")
    path = validations.write(one, tmp_path)
    assert path.name == "mlp-chain-bf16-cpu.json"
    assert list(validations.read_all(tmp_path)) == [one]
    rows = list(csv.DictReader(io.StringIO(report.csv([one]))))
    assert [row["error"] for row in rows] == ["0.000000", "-0.200000"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"real_tensor_peak_bytes": 92}, 1),
        ({"real_after_forward_bytes": 54}, 1),
        ({"real_tensor_peak_bytes": None, "real_after_forward_bytes": None}, 0),
    ],
)
def test_command_fails_if_bytes_differ(monkeypatch, tmp_path, changes, code):
    row = msgspec.structs.replace(ROW, **changes)
    monkeypatch.setattr(validation, "compare", lambda _: row)
    flags = ("validate", "--device", "cpu", "--workload", "mlp-chain", "--results", str(tmp_path))
    done = CliRunner().invoke(command_line.app, flags)
    assert done.exit_code == code
    assert re.search(r"\| mlp-chain +\| cpu \(", done.output)
    assert len(list(validations.read_all(tmp_path))) == 1


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


def test_results_readme_documents_every_field_in_order():
    text = (Path(__file__).parents[1] / "results" / "README.md").read_text("utf-8")
    section = text.partition("## One validation")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    kinds = (validations.Validation, Row)
    assert names == [name for kind in kinds for name in kind.__struct_fields__]
