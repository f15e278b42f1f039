"""Profiles: the trace to the byte, phases in order, and the allocator's own peak."""

import io
import itertools
import json
import sys

import pandas as pd
import pytest
import torch
from effort import few
from simulated import simulate

import strategies
from bench import __main__ as cli
from bench.cells.cell import Cell, checked
from bench.cells.training import TrainingStep
from bench.devices import accelerators
from bench.measure import memory
from bench.report import display, timeline
from bench.simulate.run import parts_of, trace_cell
from bench.simulate.trace import BACKWARD, CATEGORIES, FORWARD, OPTIMIZER, RECOMPUTE
from bench.simulate.traced_step import trace
from bench.store.timeline import Total
from bench.studies import timeline_parts, timeline_real
from bench.studies.timeline import profile_cell
from bench.studies.timeline_simulated import rounded
from strategies.profiling.free_blocks import GRANULE_BYTES
from strategies.profiling.ledger import unique_bytes
from strategies.profiling.quiet import silenced

OPTIONS = {"dim": 16, "heads": 2, "layers": 2, "seq": 16, "batch": 1}
SIM = "sim:v100-16gb"


def cell(spec="every_layer", device="cpu", **changes):
    options = {**OPTIONS, **changes.pop("options", {})}
    return checked(
        Cell(workload="gpt-mini", spec=spec, device=device, options=options, rounds=0, **changes)
    )


def names(made):
    return [phase.name for phase in made.timeline.phases]


@pytest.fixture(scope="module")
def real():
    return profile_cell(cell())


@pytest.fixture(scope="module")
def simulated():
    return profile_cell(cell(device=SIM))


@pytest.fixture(params=["real", "simulated"])
def made(request):
    return request.getfixturevalue(request.param)


def test_every_category_has_its_colour():
    assert tuple(timeline.COLOURS) == CATEGORIES
    assert tuple(timeline.PHASE_COLOURS) == (FORWARD, RECOMPUTE, BACKWARD, OPTIMIZER)


# What both have.


def test_phases_are_in_order_and_leave_no_gap(made):
    line = made.timeline
    assert names(made) == [FORWARD, BACKWARD, RECOMPUTE, BACKWARD, RECOMPUTE, BACKWARD]
    assert line.phases[0].begin == line.positions[0] == 0
    assert line.phases[-1].end == line.positions[-1]
    assert all(one.end == other.begin for one, other in itertools.pairwise(line.phases))
    assert all(phase.begin < phase.end for phase in line.phases)


def test_peak_is_made_up_of_its_categories(made):
    peak = made.timeline.peak
    assert sum(peak.by_category.values()) == peak.size_bytes
    assert peak.phase in names(made)
    assert made.facts["peak_allocated_bytes"] == peak.size_bytes
    assert made.facts["peak_by_category"] == peak.by_category


def test_step_begins_with_what_was_there_before(made):
    first = {name: counts[0] for name, counts in made.timeline.series.items() if counts[0]}
    assert set(first) == {"parameters", "batch"}


def test_step_ends_with_the_gradients(made):
    last = {name: counts[-1] for name, counts in made.timeline.series.items()}
    assert last["gradients"] > 0.9 * last["parameters"]
    assert last["saved tensors"] == last["boundary activations"] == last["temporaries"] == 0


def test_paragraph_says_how_high_where_what_and_what_to_do(made):
    said, peak = made.paragraph(), made.timeline.peak
    assert "\n" not in said
    assert f"peak is {display.sized(peak.size_bytes)}, at {peak.operator} in" in said
    assert f"({peak.phase})" in said
    assert f"parameters {display.sized(peak.by_category['parameters'])}" in said
    assert f"The floor is {display.sized(made.facts['peak_floor_bytes'])}" in said
    assert made.facts["advice"] in said


def test_data_holds_the_peak(made):
    table = pd.read_csv(io.StringIO(timeline.csv(made.timeline)))
    column = "allocated_bytes" if made.timeline.allocated else "total_bytes"
    assert table[column].max() == made.timeline.peak.size_bytes


# Simulated.


def test_simulated_totals_are_those_of_the_trace_in_granules(simulated):
    wanted = trace_cell(cell(device=SIM)).trace
    line = simulated.timeline
    assert line.totals == wanted.alive_bytes(GRANULE_BYTES)[-len(line.totals) :]
    assert len(line.totals) == len(wanted.events) - timeline_parts.residents(wanted) + 1
    assert all(count % GRANULE_BYTES == 0 for count in line.totals)
    assert line.totals[line.peak.position] == line.peak.size_bytes == max(line.totals)
    assert line.allocated is None


def test_simulated_peak_is_the_records(simulated):
    record = simulate(cell(device=SIM))
    for name in ("peak_allocated_bytes", "peak_reserved_bytes", "status"):
        assert simulated.facts[name] == record[name]
    assert simulated.timeline.limit_bytes == accelerators.get(SIM).memory_bytes
    assert simulated.timeline.heading.modelled
    assert simulated.paragraph().endswith(" of 16.9 GB.")
    assert "the modelled peak is" in simulated.paragraph()


def test_rounding_to_single_bytes_changes_nothing():
    made = trace_cell(cell(device=SIM)).trace
    assert rounded(made, 1) == made
    up = rounded(made, 4096)
    assert up.alive_bytes() == made.alive_bytes(4096)
    index = len(up.events) // 2
    assert sum(up.by_category(index).values()) == up.alive_bytes()[index]


def test_what_does_not_fit_says_how_much_is_missing():
    made = profile_cell(cell(device="sim:custom(memory_gb=0.01)", options={"seq": 512, "batch": 4}))
    assert made.facts["status"] == "oom"
    assert "It does not fit: it needs " in made.paragraph()
    assert made.timeline.limit_bytes == int(0.01 * 2**30)


def test_the_optimizers_phase_comes_last():
    made = profile_cell(cell("none", SIM, optimizer="adamw"))
    assert names(made) == [FORWARD, BACKWARD, OPTIMIZER]
    assert max(made.timeline.series["optimizer state"]) > 0


# Real.


def measured(one):
    """Peak by the instrument that records are made with."""
    step = TrainingStep.build(one.make_workload(), torch.device("cpu"))
    with strategies.apply(step.model, one.spec, blocks=step.workload.blocks), silenced():
        taken = memory.measure_cpu(step.forward, step.backward)
    return unique_bytes(step.resident_tensors()) + taken.peak_bytes


@pytest.mark.parametrize("spec", few(["none", "every_layer", "sqrt", "selective", "compressed"], 2))
def test_real_peak_is_the_allocators(spec):
    one = cell(spec, options={"layers": 4, "seq": 64})
    made = profile_cell(one)
    assert made.timeline.peak.size_bytes == pytest.approx(measured(one), rel=0.02)
    assert made.timeline.peak.size_bytes == max(made.timeline.allocated.size_bytes)
    assert not made.timeline.heading.modelled


@pytest.mark.parametrize("spec", ["none", "every_layer"])
def test_real_categories_sum_to_what_the_simulation_of_this_cpu_says(spec):
    made = profile_cell(cell(spec))
    wanted = trace_cell(cell(spec), as_cuda=False).trace
    totals = made.timeline.totals
    assert max(totals) == max(wanted.alive_bytes())
    assert (totals[0], totals[-1]) == (
        wanted.alive_bytes()[timeline_parts.residents(wanted) - 1],
        wanted.alive_bytes()[-1],
    )


def test_every_event_has_its_time_and_categories_sum_to_the_ledger():
    step = TrainingStep.build(cell().make_workload(), torch.device("cpu"))
    with strategies.apply(step.model, "every_layer", blocks=step.workload.blocks) as applied:
        tracer = timeline_real.TimedTracer(step.model, applied.chain.blocks)
        made = trace(tracer, parts_of(step, as_cuda=False))
    events = len(made.events)
    assert len(tracer.times_ns) == len(tracer.alive) >= events
    assert tracer.times_ns == sorted(tracer.times_ns)
    sums = [sum(counts) for counts in zip(*made.series().values(), strict=True)]
    assert sums == tracer.alive[:events] == made.alive_bytes()


def test_allocator_and_tensors_agree_where_they_begin_and_end(real):
    line = real.timeline
    assert line.allocated.positions[0] == line.positions[0] == 0
    assert line.allocated.size_bytes[0] == line.totals[0]
    assert line.allocated.size_bytes[-1] == pytest.approx(line.totals[-1], rel=0.01)
    assert line.axis == "time_ms"


def test_kernels_scratch_is_what_the_allocator_has_beyond_tensors():
    step = trace_cell(cell("none"), as_cuda=False).trace
    first = timeline_parts.residents(step) - 1
    alive = step.alive_bytes()[first:]
    at = alive.index(max(alive))
    recording = timeline_real.Recording(
        trace=step,
        times_ns=[10 * n for n in range(len(alive))],
        allocated=[alive[0], alive[at] + 1000, alive[-1]],
        allocated_ns=[0, 10 * at + 5, 10 * len(alive)],
        spans=[memory.Span(10 * at, 10 * at + 9, "aten::mm")],
    )
    total = Total([0.0, 1.0, 2.0], recording.allocated)
    peak = timeline_real._real_peak(recording, total)
    assert peak.by_category[timeline_parts.SCRATCH] == 1000
    assert peak.size_bytes == alive[at] + 1000
    assert sum(peak.by_category.values()) == peak.size_bytes
    assert (peak.operator, peak.position) == ("mm", 1.0)


def test_births_that_the_allocator_is_yet_to_make_are_no_part_of_its_peak():
    step = trace_cell(cell("none"), as_cuda=False).trace
    first = timeline_parts.residents(step) - 1
    alive = step.alive_bytes()[first:]
    born = next(n for n in range(5, len(alive)) if alive[n] > alive[n - 1])
    times = [0] * born + [100] * (len(alive) - born)
    recording = timeline_real.Recording(step, times, [], [], [])
    assert timeline_real._event_at(recording, 50, alive[born - 1]) == first + born - 1
    times = [0] * (born + 1) + [100] * (len(alive) - born - 1)
    recording = timeline_real.Recording(step, times, [], [], [])
    assert timeline_real._event_at(recording, 50, alive[born]) == first + born
    assert timeline_real._event_at(recording, 50, alive[born] - 1) == first + born - 1


# The command.


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench", "profile", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return run


TINY = ("--layers", 2, "--seq", 16, "--batch", 1, "--dim", 16, "--option", "heads=2")


@pytest.mark.parametrize("device", ["cpu", SIM])
def test_command_writes_picture_and_data_and_says_a_paragraph(call, tmp_path, device):
    code, out, err = call(
        *("--workload", "gpt-mini", "--strategy", "every_k", "--set", "k=1"),
        *("--device", device, "--out", tmp_path / "new", *TINY),
    )
    assert (code, err) == (0, "")
    assert out.startswith(f"gpt-mini under every_k(k=1) on {device}: the m")
    assert out.count("\n") == 1
    stem = f"timeline-gpt-mini-every-k-k-1-{device.replace(':', '-')}"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        f"{stem}.csv",
        f"{stem}.png",
        f"{stem}.svg",
    ]
    table = pd.read_csv(tmp_path / "new" / f"{stem}.csv")
    assert list(dict.fromkeys(table["phase"])) == [FORWARD, BACKWARD, RECOMPUTE]


def test_command_says_the_same_in_json(call, tmp_path):
    code, out, _ = call(
        *("--workload", "gpt-mini", "--strategy", "none", "--format", "json"),
        *("--device", "sim:custom", "--sim", "memory_gb=1", "--out", tmp_path, *TINY),
    )
    found = json.loads(out)
    assert code == 0
    assert found["workload_options"]["heads"] == 2
    assert found["modelled"] is True
    assert found["device"].startswith("sim:custom(memory_gb=1,")
    assert sum(found["peak_by_category"].values()) == found["peak_allocated_bytes"]
    assert {"peak_operator", "peak_module", "peak_phase", "peak_floor_bytes", "advice"} <= set(
        found
    )
    assert sorted(found["files"]) == sorted(str(path) for path in tmp_path.iterdir())
    assert len(found["files"]) == 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--strategy", "nonesuch"), "unknown strategy 'nonesuch'"),
        (("--strategy", "none", "--device", "sim:h1000"), "unknown accelerator"),
        (("--strategy", "none", "--device", "tpu"), "no device 'tpu'"),
        (("--strategy", "none", "--option", "heads"), "--option takes name=value"),
        (("--strategy", "none", "--seq", "4096"), "seq 4096 is more than"),
        (("--strategy", "none", "--sim", "memory_gb=1"), "--sim describes --device sim:custom"),
        (("--strategy", "flash_checkpoint", "--workload", "mlp-chain"), "flash_checkpoint: "),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(call, tmp_path, arguments, problem):
    code, out, err = call("--workload", "gpt-mini", "--out", tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert problem in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_real_accelerator_is_refused():
    with pytest.raises(ValueError, match="profile takes cpu or a simulated device, not cuda"):
        profile_cell(Cell(workload="gpt-mini", spec="none", device="cuda"))
