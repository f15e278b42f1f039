"""The largest size that fits: what tracing every size would say, from few traces."""

import dataclasses
import functools

import msgspec
import pytest
from effort import few
from simulated import cell, simulation

from bench.devices import accelerators
from bench.simulate import fit
from bench.simulate.grown import Growth, without_scratch
from bench.simulate.run import trace_cell
from bench.simulate.steps import Steps
from strategies.profiling.free_blocks import GRANULE_BYTES

DEVICE = "sim:custom(memory_gb=0.25, workspace_mib=0)"


@pytest.mark.parametrize("expected", [0, 1, 2, 7, 8, 9, 20, 100])
@pytest.mark.parametrize("largest", [0, 1, 2, 7, 8, 20])
def test_the_search_ends_at_the_largest_wherever_it_begins(expected, largest):
    asked = []

    def fits(size):
        asked.append(size)
        return size <= largest

    assert fit.around(expected, fits, 20) == largest
    assert set(asked) <= set(range(1, 21))
    if expected == largest < 20 and largest:
        assert sorted(asked) == [largest, largest + 1]


@functools.cache
def traced(batch, seq):
    return simulation("gpt-mini", "every_layer", batch=batch, seq=seq, optimizer="adamw").trace


@pytest.mark.parametrize(
    ("known", "other"),
    few([([(2, 32), (3, 32)], (5, 32)), ([(2, 32), (2, 48), (2, 64)], (2, 96))]),
)
def test_growth_tells_every_storage_to_the_byte(known, other):
    axis = 0 if known[0][1] == known[1][1] else 1
    growth = Growth.of({sizes[axis]: traced(*sizes) for sizes in known})
    grown, true = growth.at(other[axis]), without_scratch(traced(*other))
    assert grown.events == true.events
    assert [life.size_bytes for life in grown.lives] == [life.size_bytes for life in true.lives]
    assert growth.tells(other[axis], traced(*other))
    assert not growth.tells(known[0][axis], traced(*other))


def test_steps_that_differ_in_kind_have_no_growth():
    other = simulation("gpt-mini", "none", batch=3, seq=32, optimizer="adamw").trace
    assert Growth.of({2: traced(2, 32), 3: other}) is None


def bounds(given, axis, value):
    """Whether a size fits, and the next, each traced."""
    device = accelerators.get(given.device)
    probes = [fit.sized(given, axis, size) for size in (value, value + fit.STEP[axis])]
    traces = [trace_cell(probe).trace for probe in probes]
    return [fit.missing_bytes(t, device.memory_bytes, t.workspaces(device)) == 0 for t in traces]


# Where kernels' scratch memory, which is not told, is too much, sizes around it are looked at.
SEARCHED = [("none", "batch", fit.MOST_SAMPLES + 1), ("every_layer", "seq", fit.MOST_SAMPLES + 4)]


@pytest.mark.parametrize(("spec", "axis", "most"), few(SEARCHED))
def test_the_largest_fits_and_the_next_does_not(spec, axis, most, monkeypatch):
    given = cell("gpt-mini", spec, device=DEVICE, optimizer="adamw", layers=2)
    probes = []

    def counted(steps, probe):
        probes.append(probe.make_workload().options()[axis])
        return original(steps, probe)

    original = Steps.simulate
    monkeypatch.setattr(Steps, "simulate", counted)
    found = fit.largest(given, axis).options[axis]
    assert len(probes) <= most
    assert found > max(probes[: fit.SAMPLES])
    assert bounds(given, axis, found) == [True, False]


def test_without_scratch_memory_a_step_is_what_its_tensors_take():
    trace = traced(2, 32)
    scratch = [number for number, life in enumerate(trace.lives) if life.is_scratch]
    bare = without_scratch(trace)
    assert len(bare.lives) == len(trace.lives) - len(scratch) < len(trace.lives)
    assert len(bare.events) == len(trace.events) - 2 * len(scratch)
    assert bare.after_forward_bytes() == trace.after_forward_bytes()
    assert bare.alive_bytes()[-1] == trace.alive_bytes()[-1]
    for event in bare.events:
        assert abs(event.delta_bytes) == bare.lives[event.life].size_bytes
    assert without_scratch(bare) is bare


def test_scratch_memory_that_grows_by_steps_takes_no_trace_more(monkeypatch):
    given = cell("gpt-mini", "none", device="sim:h100-80gb", optimizer="adamw", layers=2, seq=32)
    traces = []

    def counted(steps, probe):
        simulation = original(steps, probe)
        traces.append(simulation.trace)
        return simulation

    original = Steps.simulate
    monkeypatch.setattr(Steps, "simulate", counted)
    room_bytes = 100_000_000
    found = fit.largest(given, "batch", room_bytes).options["batch"]
    assert len(traces) == fit.SAMPLES + 1
    assert max(traces[-1].alive_bytes(GRANULE_BYTES)) <= room_bytes
    growth = Growth.of(dict(zip((2, 3), traces, strict=False)))
    assert max(growth.at(found + 1).alive_bytes(GRANULE_BYTES)) > room_bytes
    sizes = [[life.size_bytes for life in one.lives if life.is_scratch] for one in traces]
    linear = [b + (found - 3) * (b - a) for a, b in zip(*sizes[:2], strict=True)]
    assert sizes[2] != linear  # so that, told with them, the step would not have been known


@pytest.mark.long
def test_room_is_of_the_peak():
    given = cell("gpt-mini", device=DEVICE, layers=2)
    wanted = trace_cell(fit.sized(given, "batch", 5)).trace
    room_bytes = max(wanted.alive_bytes(GRANULE_BYTES))
    assert fit.largest(given, "batch", room_bytes).options["batch"] == 5
    assert fit.largest(given, "batch", room_bytes - 1).options["batch"] == 4


@pytest.mark.long
def test_nothing_fits():
    tiny = msgspec.structs.replace(cell("gpt-mini"), device=DEVICE.replace("0.25", "0.0001"))
    assert fit.largest(tiny, "batch") is None


@pytest.mark.parametrize(
    ("changes", "axis", "says"),
    [
        ({"device": "cpu"}, "batch", "simulated devices only"),
        ({"workload": "mlp-chain", "options": {}}, "seq", "has no option 'seq'"),
    ],
)
def test_bad_questions_are_refused(changes, axis, says):
    with pytest.raises(ValueError, match=says):
        fit.largest(msgspec.structs.replace(cell("gpt-mini"), **changes), axis)


def test_no_size_is_below_zero():
    trace = traced(2, 32)
    small = [dataclasses.replace(life, size_bytes=min(1, life.size_bytes)) for life in trace.lives]
    grown = Growth({1: trace, 2: dataclasses.replace(trace, lives=small)}).at(10)
    assert {life.size_bytes for life in grown.lives} == {0}


def test_steps_that_share_a_model_are_those_of_models_of_their_own():
    given, shared = cell("gpt-mini", "every_layer", optimizer="adamw", layers=2, seq=32), Steps()
    for batch in (3, 2):
        sized = fit.sized(given, "batch", batch)
        assert shared.simulate(sized).trace.events == trace_cell(sized).trace.events
    assert len(shared._built) == 1
    shared._step(fit.sized(given, "seq", 64))
    assert len(shared._built) == 2
