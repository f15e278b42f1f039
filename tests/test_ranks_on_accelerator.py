"""Ranks on accelerators, where there is one: as many as there are devices, and two that share one.

One device is enough for most: a rank alone (NCCL, no peer) and two that talk by gloo.
"""

import functools
import signal
import time

import pytest
import tiny
import torch
from test_ranks import FOUR, SMALL, WAYS, command, when_running

from bench import devices
from bench.cells.cell import checked
from bench.ranks import launch, stored
from bench.store.ranks import STORE

pytestmark = [
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator here"),
    pytest.mark.long,
]

DEVICE = devices.default()
GROUPED = {"kv_heads": 2, "heads": 4, "ffn": 96}
SPECS = ("none", "every_layer", "sqrt", "auto(budget='90%')")
ALONE = ("ddp", "fsdp2", "fsdp2(reshard=false)", "tp", "sp", "fsdp2=1+tp=1", "pp")


def cell(parallel, spec, ranks, workload="gpt-mini", **fields):
    more = GROUPED if workload == "llama-mini" else {}
    fields = {"rounds": 0, "threads": 1, "options": FOUR | more, **fields}
    fields = {"ranks": ranks, "parallel": parallel, "device": DEVICE, **fields}
    return launch.checked(checked(tiny.cell(workload, spec, **fields)))


@functools.cache
def plain_bytes(workload):
    """Of the whole model's parameters."""
    model = cell("ddp", "none", 1, workload).make_workload().model()
    return sum(parameter.nbytes for parameter in model.parameters())


def records(one, timeout_s=300):
    """Of all ranks and of each; an exact strategy whose bits are others is no ok."""
    together, *own = launch.run(one, timeout_s)
    assert together.status == "ok", together.reason
    assert together.grad_max_rel_err < 1e-4  # other sizes, other kernels, another order of sums
    assert together.rank_peaks_bytes == [record.peak_allocated_bytes for record in own]
    assert all(r.peak_reserved_bytes >= r.peak_allocated_bytes > 0 for r in own)
    return together, own


def few(ranks):
    return ranks > torch.accelerator.device_count()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("parallel", ALONE)
def test_a_rank_alone_is_a_process(parallel, spec):
    """Nothing is divided, and what is said is said to oneself: to sum is all that DDP does."""
    _, (own,) = records(cell(parallel, spec, 1))
    assert own.rank == 0
    assert own.parameter_bytes == own.gradient_bytes == plain_bytes("gpt-mini")
    assert own.recomputed_collectives == {}
    if parallel == "ddp":
        assert set(own.communication_calls) == {"all_reduce"}
        assert own.communication_bytes["all_reduce"] == plain_bytes("gpt-mini")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_checkpointing_saves_on_a_rank_what_it_saves_in_a_process(parallel):
    """To the byte: whatever keeps parameters, blocks save the same."""
    saved = {
        spec: tiny.measure("gpt-mini", spec, FOUR, device=DEVICE).saved_after_forward_bytes
        for spec in ("none", "every_layer")
    }
    _, (plain,) = records(cell(parallel, "none", 1))
    _, (thrifty,) = records(cell(parallel, "every_layer", 1))
    less = plain.saved_after_forward_bytes - thrifty.saved_after_forward_bytes
    assert less == saved["none"] - saved["every_layer"] > 0


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_a_rank_alone_is_timed(parallel):
    together, _ = records(cell(parallel, "every_layer", 1, rounds=4))
    assert len(together.step_s) == len(together.none_step_s) == 4


@pytest.mark.parametrize("precision", ["bf16", "bf16-autocast"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_other_precisions(parallel, precision):
    together, *_ = launch.run(cell(parallel, "every_layer", 1, precision=precision), 300)
    assert together.status == "ok", together.reason
    assert together.grads_bitwise_equal


def test_torchrun_starts_a_rank(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
    asked = ("--device", DEVICE, "--results", str(tmp_path))
    process = command(*asked, start=(*torchrun, "-m", "bench"))
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-2000:]
    assert out.count("every_layer") == 1
    assert [record.status for record in STORE.read_all(tmp_path)] == ["ok"] * 2


@pytest.mark.skipif(not few(2), reason="two ranks need not share a device here")
@pytest.mark.parametrize("spec", SPECS[:3])
@pytest.mark.parametrize("workload", ["gpt-mini", "llama-mini"])
def test_two_ranks_share_a_device(workload, spec):
    """What they say to each other is what two ranks of gloo say on the CPU, byte by byte."""
    together, own = records(cell("ddp", spec, 2, workload))
    elsewhere, *_ = launch.run(cell("ddp", spec, 2, workload, device="cpu"), 300)
    assert together.communication_calls == elsewhere.communication_calls
    assert together.communication_bytes == elsewhere.communication_bytes
    assert together.recomputed_collectives == {}
    assert [r.parameter_bytes for r in own] == [plain_bytes(workload)] * 2
    assert all("ranks share a device" in record.notes[-1] for record in own)


@pytest.mark.skipif(not few(2), reason="two ranks need not share a device here")
def test_ranks_that_share_a_device_are_not_timed():
    with pytest.raises(ValueError, match="say --no-time"):
        cell("ddp", "none", 2, rounds=2)
    with pytest.raises(ValueError, match="only ddp lets ranks share one"):
        cell("tp", "none", 2)


@pytest.mark.skipif(not few(2), reason="two ranks need not share a device here")
def test_a_killed_rank_is_named(tmp_path):
    one = cell("ddp", "none", 2, options=SMALL | {"layers": 12, "seq": 256})
    thread = when_running(1, signal.SIGKILL)
    began = time.monotonic()
    together, *own = stored.run(one, 300, tmp_path, launch.run)
    thread.join()
    assert "the process ended with signal SIGKILL" in together.reason
    assert together.reason.startswith("rank 1")
    assert time.monotonic() - began < 200  # not the time limit
    assert [record.status for record in own] == ["crash", "crash"]


@pytest.mark.parametrize(("ranks", "parallel", "spec"), [w for w in WAYS if "cp" not in w[1]])
@pytest.mark.parametrize("workload", ["gpt-mini", "llama-mini"])
def test_every_way_on_devices_of_their_own(workload, ranks, parallel, spec):
    if few(ranks):
        pytest.skip(f"{ranks} ranks need as many devices")
    _, own = records(cell(parallel, spec, ranks, workload))
    assert all(record.communication_calls for record in own)
