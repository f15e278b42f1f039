"""Which device each rank of a machine gets, of accelerators that are made up."""

import pytest
import tiny
import torch
from msgspec import structs

from bench.ranks import places
from bench.ranks.parallel import parse


@pytest.fixture
def accelerators(monkeypatch):
    """Says how many there are; none is touched."""

    def are(count):
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return are


def cell(ranks, parallel="ddp", device="cuda", rounds=0):
    made = tiny.cell("gpt-mini", ranks=ranks, parallel=parallel, rounds=rounds)
    return structs.replace(made, device=device)


def problem(one):
    return places.problem(one, parse(one.parallel, one.ranks))


@pytest.mark.parametrize(
    ("device", "count", "ranks", "backend"),
    [("cpu", 0, 2, "gloo"), ("cuda", 2, 2, "nccl"), ("cuda", 1, 1, "nccl"), ("cuda", 1, 2, "gloo")],
)
def test_ranks_talk_through_the_library_of_their_devices(
    device, count, ranks, backend, accelerators
):
    accelerators(count)
    assert places.backend(cell(ranks, device=device)) == backend
    assert problem(cell(ranks, device=device)) is None


NEEDED = "2 ranks need as many devices; this machine has 1 of cuda"
UNTIMED = f"{NEEDED}: ranks that share one are not timed, so say --no-time"
ALONE = f"{NEEDED}, and only ddp lets ranks share one"


@pytest.mark.parametrize(
    ("parallel", "rounds", "sentence"),
    [
        ("ddp", 0, None),
        ("ddp", 2, UNTIMED),
        ("fsdp2", 0, ALONE),
        ("tp", 0, ALONE),
        ("pp", 0, ALONE),
    ],
)
def test_ranks_that_share_a_device(parallel, rounds, sentence, accelerators):
    accelerators(1)
    assert problem(cell(2, parallel, rounds=rounds)) == sentence


@pytest.mark.parametrize(("here", "backend"), [("2", "nccl"), ("4", "gloo")])
def test_ranks_of_several_machines_need_devices_of_their_own(
    here, backend, accelerators, monkeypatch
):
    """Four ranks that torchrun has started: two on each of two machines, or all on this one."""
    accelerators(2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    assert places.backend(cell(4)) == backend
    assert places.shared(cell(4)) == (backend == "gloo")


def test_a_rank_of_a_cpu_has_the_cpu():
    assert places.of_rank("cpu", 3) == torch.device("cpu")
