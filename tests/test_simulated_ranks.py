"""One rank of many, simulated: the bytes of real ranks, what FSDP2 gathers, and what it costs."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import command
import msgspec
import pytest
import rank_trace
import torch
from rank_trace import bytes_of

from bench import workloads
from bench.cells.cell import Cell, checked
from bench.devices import accelerators
from bench.ranks.parallel import Parallel, parse
from bench.ranks.simulated import checked as parallel_of
from bench.ranks.simulated import trace_rank
from bench.ranks.simulated_plan import best_plan, on_ranks, smallest_cluster
from bench.ranks.simulated_record import fit_of, simulate, time_of
from bench.ranks.simulated_streams import parts
from bench.ranks.simulated_time import RankTime, collective_s, pipelined, rank_time
from bench.ranks.simulated_tracer import Collective, RankTracer
from bench.run import executor
from bench.run.endings import Ending
from bench.run.planning import budgeted
from bench.simulate.roofline import Operator
from bench.simulate.trace import BACKWARD, FORWARD, OPTIMIZER
from bench.store import records

ROOT = Path(__file__).parent.parent
TINY = {"layers": 3, "dim": 32, "heads": 2, "seq": 32, "batch": 4}
LLAMA = {"layers": 3, "dim": 32, "heads": 4, "ffn": 48, "seq": 16, "batch": 4}
H100 = accelerators.get("h100-80gb")
TRIES = 3


def cell(spec="none", ranks=4, parallel="fsdp2", workload="gpt-mini", **options):
    sizes = LLAMA if workload == "llama-mini" else TINY
    return checked(
        Cell(
            workload=workload,
            options={**sizes, **options},
            spec=spec,
            device="sim:h100-80gb",
            optimizer="adamw",
            ranks=ranks,
            parallel=parallel,
        )
    )


@functools.cache
def simulated(spec):
    """Its rank; leave it as it is."""
    return trace_rank(cell(spec))


# Real ranks.


def answer(cell, rank, folder):
    question = rank_trace.Question(rank, str(folder / "meeting"), cell)
    return executor.in_process(rank_trace.work, msgspec.json.encode(question), 300.0)


def real(cell, folder):
    """What each real rank counted, by gloo on this CPU."""
    with ThreadPoolExecutor(cell.ranks) as pool:
        answers = list(pool.map(lambda rank: answer(cell, rank, folder), range(cell.ranks)))
    assert not [said for said in answers if isinstance(said, Ending)]
    return [msgspec.json.decode(said) for said in answers]


def plain(facts):
    return msgspec.json.decode(msgspec.json.encode(facts))


def equal(wanted, cell, folder):
    """The first real rank's loss and the others' answers, once its bytes are those.

    A thread of gloo's holds the last message until it is given a processor again: on a busy machine
    that can be after forward. So a rank that counted another one's bytes is asked again, twice.
    """
    for number in range(TRIES):
        place = folder / str(number)
        place.mkdir()
        first, *others = real(cell, place)
        loss = first.pop("loss")
        if first == wanted:
            break
    assert first == wanted
    return loss, others


@pytest.mark.long
@pytest.mark.parametrize(
    ("spec", "ranks", "parallel", "workload"),
    [
        ("every_layer", 2, "fsdp2", "gpt-mini"),
        ("none", 2, "fsdp2", "gpt-mini"),
        ("sqrt", 2, "fsdp2(reshard=false)", "llama-mini"),
        ("every_layer", 4, "fsdp2", "llama-mini"),
        ("every_layer", 2, "fsdp2(mixed=true)", "gpt-mini"),
        ("none", 2, "megatron", "gpt-mini"),
        ("every_layer", 2, "megatron(sequence=true)", "gpt-mini"),
        ("sqrt", 4, "fsdp2+megatron(sequence=true)=2", "gpt-mini"),
        ("none", 2, "cp", "gpt-mini"),
        ("every_layer", 4, "cp", "llama-mini"),
        ("sqrt", 4, "fsdp2+cp=2", "llama-mini"),
    ],
)
def test_simulated_bytes_are_those_of_real_ranks(spec, ranks, parallel, workload, tmp_path):
    """At the peak by category, after forward, before the step; and every collective."""
    one = cell(spec, ranks, parallel, workload)
    found = trace_rank(one, as_cuda=False)
    wanted = plain(bytes_of(found.simulation.trace, found.collectives))
    loss, others = equal(wanted, one, tmp_path)
    same_batch = others[: parse(parallel, ranks).tensor - 1]
    assert [other["loss"] for other in same_batch] == pytest.approx([loss] * len(same_batch))


BUCKETED = {"layers": 3, "dim": 256}
"""Large enough for two buckets of DistributedDataParallel."""


@pytest.mark.long
@pytest.mark.parametrize("spec", ["none", "sqrt"])
def test_simulated_buckets_are_those_of_real_ranks(spec, tmp_path):
    one = cell(spec, 2, "ddp", **BUCKETED)
    found = trace_rank(one, as_cuda=False)
    wanted = plain(bytes_of(found.simulation.trace, found.collectives))
    equal(wanted, one, tmp_path)
    assert [kind for kind, *_ in wanted["collectives"]] == ["all_reduce", "all_reduce"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("spec", "ranks", "parallel", "workload"),
    [
        ("none", 2, "pp", "gpt-mini"),
        ("every_layer", 2, "pp(microbatches=4,gpipe=true)", "gpt-mini"),
        ("sqrt", 2, "pp(microbatches=4)", "llama-mini"),
        ("every_layer", 4, "pp", "gpt-mini"),
        ("every_layer", 4, "fsdp2=2+pp=2", "gpt-mini"),
    ],
)
def test_every_simulated_stage_has_the_bytes_of_a_real_one(
    spec, ranks, parallel, workload, tmp_path
):
    one, way = cell(spec, ranks, parallel, workload, layers=4), parse(parallel, ranks)
    found = real(one, tmp_path)
    for stage in range(way.pipeline):
        rank = trace_rank(one, as_cuda=False, stage=stage)
        recorded = found[stage * way.replicas]
        del recorded["loss"]
        assert plain(bytes_of(rank.simulation.trace, rank.collectives)) == recorded


@pytest.mark.long
def test_ranks_that_split_products_have_the_loss_of_one(tmp_path):
    one = cell("every_layer", 2, "megatron(sequence=true)")
    one = msgspec.structs.replace(one, optimizer="none")  # its update comes before the loss
    shape = one.make_workload()
    with torch.no_grad():
        alone = float(shape.loss(shape.model(), shape.make_batch()))
    assert real(one, tmp_path)[0]["loss"] == pytest.approx(alone, rel=1e-6)


# What FSDP2 does.


def test_a_rank_holds_its_share_and_gathers_one_block_after_the_other():
    """L + 1 units are gathered in forward; the blocks again in backward; all are reduced."""
    found = simulated("every_layer")
    shape = workloads.get("gpt-mini", **TINY)
    numbers = sum(p.numel() for p in shape.build().parameters())
    resident = found.simulation.trace.by_category(found.simulation.trace.resident_events - 1)
    assert resident["parameters"] == 4 * numbers // 4
    assert resident["optimizer state"] == 2 * 4 * numbers // 4
    kinds = [(one.kind, one.of_parameters) for one in found.collectives]
    assert kinds.count(("all_gather", True)) == 2 * 3 + 1
    assert kinds.count(("reduce_scatter", True)) == 3 + 1
    assert not any(one.recompute for one in found.collectives)
    gathered = sum(one.whole_bytes for one in found.collectives if one.kind == "all_gather")
    block_numbers = sum(p.numel() for p in shape.build().h.parameters())
    assert gathered == 4 * (numbers + block_numbers)
    peak = max(found.simulation.trace.alive_bytes())
    assert sum(max(trace.alive_bytes()) for trace in parts_of(found).values()) >= peak


def parts_of(found):
    return parts(found.simulation.trace, found.streams)


def test_buckets_hold_every_gradient_once_more():
    """Two of them, made in the order of backward, and summed while backward goes on."""
    found = trace_rank(cell("none", 2, "ddp", **BUCKETED))
    shape = workloads.get("gpt-mini", **{**TINY, **BUCKETED})
    whole_bytes = 4 * sum(p.numel() for p in shape.build().parameters())
    trace = found.simulation.trace
    assert trace.by_category(trace.resident_events - 1)["gradient buckets"] == whole_bytes
    assert [(one.kind, one.of_parameters) for one in found.collectives] == 2 * [
        ("all_reduce", True)
    ]
    assert sum(one.whole_bytes for one in found.collectives) == whole_bytes
    assert found.streams == {}
    first, last = (trace.work[one.position - 1].phase for one in found.collectives)
    assert first == last == BACKWARD


def test_a_stage_holds_what_its_neighbours_send():
    """The first of two: its embedding, half of the blocks, and a gradient for each micro-batch."""
    found = trace_rank(cell("none", 2, "pp(microbatches=4)", layers=2))
    trace = found.simulation.trace
    resident = trace.by_category(trace.resident_events - 1)
    boundary_bytes = 4 * TINY["seq"] * TINY["dim"]  # of one of the four examples
    assert resident["pipeline buffers"] == 4 * boundary_bytes
    kinds = [(one.kind, one.whole_bytes) for one in found.collectives]
    assert sorted(kinds) == 4 * [("recv", boundary_bytes)] + 4 * [("send", boundary_bytes)]


@pytest.mark.long
def test_a_pipeline_is_as_large_as_its_largest_stage_and_waits_for_the_slowest():
    one = cell("none", 2, "pp(microbatches=4)", layers=2)
    stages = [trace_rank(one, stage=stage) for stage in range(2)]
    times = [time_of(stage, H100) for stage in stages]
    needs = [fit_of(stage, H100).steady_reserved_bytes for stage in stages]
    record = simulate(one)
    assert record.steady_reserved_bytes == max(needs)
    assert any("of 2 stages number" in note for note in record.notes)
    slowest = max(times, key=lambda stage: stage.step_s)
    idle_s = (slowest.step_s - slowest.update_s) / 4
    assert record.modelled_step_s == pytest.approx(slowest.step_s + idle_s)
    assert record.modelled_exposed_s == pytest.approx(slowest.exposed_s + idle_s)


@pytest.mark.long
def test_gpipe_keeps_what_1f1b_gives_back():
    """With eight micro-batches in two stages: all eight are alive at once, or two."""
    saved = []
    for way in ("pp(microbatches=8)", "pp(microbatches=8,gpipe=true)"):
        trace = trace_rank(cell("none", 2, way, batch=8, layers=2)).simulation.trace
        alive_bytes = trace.alive_bytes()
        saved.append(trace.by_category(alive_bytes.index(max(alive_bytes)))["saved tensors"])
    assert saved[1] >= 4 * saved[0]


def test_streams_of_their_own_hold_what_is_gathered_and_reduced():
    found = simulated("every_layer")
    whole, each = found.simulation.trace, parts_of(found)
    assert list(each) == ["", "all_gather", "reduce_scatter"]
    assert sum(len(part.events) for part in each.values()) == len(whole.events)
    reduced = {event.life for event in each["reduce_scatter"].events}
    assert {whole.lives[life].category for life in reduced} == {"gradients"}
    gathered = {event.life for event in each["all_gather"].events}
    assert {whole.lives[life].category for life in gathered} == {"gathered parameters"}


def test_a_resized_storage_dies_and_is_born():
    tracer = RankTracer(torch.nn.Identity())
    with tracer, tracer.watching():
        kept = torch.empty(8)
        kept.untyped_storage().resize_(0)
        kept.untyped_storage().resize_(16)
        kept.untyped_storage().resize_(16)
        del kept
    assert [event.delta_bytes for event in tracer.events] == [32, -32, 16, -16]
    assert torch.UntypedStorage.resize_.__name__ == "resize_"
    assert not hasattr(torch.UntypedStorage.resize_, "__wrapped__")


# Time.


LINKS = H100.interconnect


def gathered(position, whole_bytes, ranks=8, *, of_parameters=True, kind="all_gather"):
    return Collective(kind, position, whole_bytes, ranks, of_parameters, False)


@pytest.mark.parametrize(
    ("one", "parallel", "rate"),
    [
        (gathered(0, 10**9), Parallel(replicas=8), 450e9),
        (gathered(0, 10**9, 64), Parallel(replicas=64), 8 * 50e9),
        (gathered(0, 10**9, 8), Parallel(replicas=8, tensor=8), 50e9),
        (gathered(0, 10**9, 8), Parallel(replicas=8, tensor=2), 4 * 50e9),
        (gathered(0, 10**9, 8, of_parameters=False), Parallel(replicas=8, tensor=8), 450e9),
    ],
)
def test_a_ring_is_as_fast_as_what_leaves_a_node(one, parallel, rate):
    part = (one.ranks - 1) / one.ranks
    assert collective_s(one, parallel, LINKS) == pytest.approx(one.whole_bytes * part / rate)


def test_a_sum_goes_round_twice():
    once, twice = (gathered(0, 10**9, kind=kind) for kind in ("reduce_scatter", "all_reduce"))
    ways = [collective_s(one, Parallel(replicas=8), LINKS) for one in (once, twice)]
    assert ways[1] == 2 * ways[0]


def work(seconds, phase=FORWARD):
    flops = round((seconds - H100.launch_overhead_s) * H100.flops_per_s("float32"))
    return Operator("mm", flops, 0, "float32", phase)


def test_parameters_are_gathered_while_the_block_before_works():
    """Two blocks of 10 ms; gathering takes 4 ms: only the first one's is seen."""
    operators = [work(5e-6), work(10e-3), work(5e-6), work(10e-3)]
    takes_bytes = round(4e-3 * 450e9 * 8 / 7)
    collectives = [gathered(0, takes_bytes), gathered(2, takes_bytes)]
    found = rank_time(operators, collectives, [0, 2], Parallel(replicas=8), H100)
    assert found.exposed_s == pytest.approx(4e-3)
    assert found.communication_s == pytest.approx(8e-3)
    assert found.step_s == pytest.approx(24e-3 + 10e-6)


def test_the_optimizer_waits_for_the_last_gradient():
    operators = [work(1e-3, BACKWARD), work(1e-3, OPTIMIZER)]
    takes_bytes = round(4e-3 * 450e9 * 8 / 7)
    reduced = [gathered(1, takes_bytes, kind="reduce_scatter")]
    found = rank_time(operators, reduced, [], Parallel(replicas=8), H100)
    assert found.exposed_s == pytest.approx(4e-3)
    assert found.step_s == pytest.approx(6e-3)


@pytest.mark.parametrize(("replicas", "rate"), [(4, 450e9), (8, 50e9)])
def test_a_stage_sends_by_one_link(replicas, rate):
    """Two stages of four ranks share a node; of eight they do not."""
    sent = gathered(0, 10**9, 2, of_parameters=False, kind="recv")
    way = Parallel(replicas=replicas, pipeline=2)
    assert collective_s(sent, way, LINKS) == pytest.approx(10**9 / rate)


def test_only_who_receives_waits():
    sent, received = (
        gathered(1, 450_000_000, 2, of_parameters=False, kind=kind) for kind in ("send", "recv")
    )
    way = Parallel(pipeline=2)
    waits = [
        rank_time([work(1e-3), work(1e-3)], [one], [], way, H100).exposed_s
        for one in (sent, received)
    ]
    assert waits == pytest.approx([0, 1e-3])


def test_a_pipeline_fills_and_drains():
    """Four micro-batches in three stages: two of them are idle at first, and two at last."""
    stages = [RankTime(8.0, 1.0, 1.0), RankTime(10.0, 1.0, 1.0, update_s=2.0)]
    found = pipelined([*stages, stages[0]], 4)
    assert (found.step_s, found.exposed_s) == (10.0 + 8.0 * 2 / 4, 1.0 + 4.0)


def test_operators_wait_for_what_is_not_of_parameters():
    takes_bytes = round(4e-3 * 450e9 * 8 / 7)
    summed = [gathered(1, takes_bytes, of_parameters=False)]
    found = rank_time([work(1e-3), work(1e-3)], summed, [], Parallel(tensor=8), H100)
    assert (found.exposed_s, found.step_s) == pytest.approx((4e-3, 6e-3))


# Records and plans.


def test_a_record_says_what_fits_and_what_is_said():
    record = simulate(cell("every_layer"))
    assert (record.status, record.ranks, record.parallel) == ("ok", 4, "fsdp2")
    assert record.communication_calls == {"all_gather": 7, "reduce_scatter": 4}
    assert record.recomputed_collectives == {}
    assert record.parameter_bytes * 2 == record.optimizer_bytes
    assert 0 < record.modelled_exposed_s <= record.modelled_communication_s
    assert record.modelled_exposed_s < record.modelled_step_s


@pytest.mark.long
def test_a_plan_is_made_for_what_sharding_leaves():
    """Of a device that `none` does not fit by a third of what its blocks keep."""
    one = on_ranks(cell(layers=8, seq=256, dim=128), 4)
    free = best_plan(one, budgeted("optimal", "1GB"), H100.memory_bytes)
    assert free.plan == "none"
    memory_bytes = free.fit.steady_reserved_bytes - 20 * 2**20
    found = best_plan(one, budgeted("optimal", "1GB"), memory_bytes)
    assert found.fit.steady_reserved_bytes <= memory_bytes < found.none_reserved_bytes
    assert "[" in found.plan
    assert found.step_s > found.none_step_s
    with pytest.raises(ValueError, match="no plan fits"):
        best_plan(one, budgeted("optimal", "1GB"), 2**20)


@pytest.mark.long
def test_the_smallest_cluster_holds_the_model_and_half_of_it_does_not():
    one = cell("every_layer", batch=1, dim=256)
    fits_of = {count: simulate(on_ranks(one, count)) for count in (2, 4, 8)}
    two, four, eight = (record.steady_reserved_bytes for record in fits_of.values())
    assert two > four > eight
    assert smallest_cluster(one, four) == 4
    with pytest.raises(ValueError, match="does not fit 1024 ranks"):
        smallest_cluster(one, 2**20)


MOST_BYTES, MOST_PROCESSOR_S = 4 * 10**9, 60
"""Of the machine that simulates: memory, and work of its processor, whatever else it does."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("spec", "sizes"),
    # A quarter of the blocks with four times the rows keep as much, and are traced sooner; what
    # runs twice is the more to trace.
    [("none", ("--layers", "24", "--batch", "4096")), ("every_layer", ())],
)
def test_a_rank_of_1024_of_gpt3_fits_this_machine(spec, sizes):
    given = ("--workload", "gpt3-175b", "--option", "attention=flash", "--strategy", spec, *sizes)
    more = ("--device", "sim:h100-80gb", "--ranks", "1024", "--format", "json")
    way = ("--set-parallel", "fsdp2(mixed=true)", "--optimizer", "adamw")
    arguments = (sys.executable, "-m", "bench", "run", *given, *more, *way)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    record = records.decode(process.stdout.read().encode())
    _, status, usage = os.wait4(process.pid, 0)
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    assert (record.ranks, record.workload, process.returncode) == (1024, "gpt3-175b", 0)
    assert record.status == ("oom" if spec == "none" else "ok")
    assert usage.ru_maxrss * 1024 < MOST_BYTES
    assert usage.ru_utime + usage.ru_stime < MOST_PROCESSOR_S


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (cell(parallel="ddp+pp=2"), "simulated pipelines are joined with fsdp2 alone"),
        (cell(parallel="fsdp3"), "--set-parallel takes"),
        (cell(batch=3), "does not go into 4 equal parts"),
        (cell(ranks=2, parallel="sp", workload="llama-mini"), "no sequence of a model with RMS"),
        (cell(ranks=2, parallel="megatron", workload="llama-mini"), "only models with c_attn"),
    ],
)
def test_what_cannot_be_simulated_is_refused(one, sentence):
    with pytest.raises(ValueError, match=sentence):
        trace_rank(one) if "c_attn" in sentence else parallel_of(one)


def test_devices_without_a_link_are_refused():
    with pytest.raises(ValueError, match="knows no link between devices for sim:l4-24gb"):
        simulate(msgspec.structs.replace(cell(), device="sim:l4-24gb"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--ranks", "one"), "--ranks takes a number of at least 2, or auto, not 'one'"),
        (("--ranks", "4", "--budget", "50%"), "a rank's budget is in bytes"),
        ((), "plan needs --budget, or --ranks"),
    ],
)
def test_bad_plans_are_refused_in_a_sentence(given, sentence):
    done = command.run("plan", "--workload", "gpt-mini", "--device", "sim:h100-80gb", *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
