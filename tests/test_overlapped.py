"""Transfers beside compute: what is alive, to the byte, and what becomes of files and threads."""

import contextlib
import copy
import dataclasses
import functools
import gc
import random
import subprocess
import sys
import threading
import weakref

import pytest
import tiny
import torch
from test_chain_profile import SIZES, HeadKeepsItsOutput
from test_rotor import crosses, nestings

from strategies import execute
from strategies import plan as plans
from strategies.cost import predict
from strategies.profiling.chain import profile_chain
from strategies.schedule import Schedule
from strategies.storage import Disk, Overlapped, Storage

ROUNDS = range(12)


@functools.cache
def profiled(workload):
    step = tiny.step(workload, **SIZES[workload])
    chain = tiny.chain_of(step)
    return step, chain, profile_chain(step, chain)


@contextlib.contextmanager
def under(chain, schedule, tier):
    undos = execute.install(chain, schedule.plan, Storage(tier=tier), schedule.offloaded)
    try:
        yield
    finally:
        while undos:
            undos.pop()()


def random_schedule(profile, number):
    """A nested plan without groups in groups of groups, and some of its boundaries offloaded."""
    rng = random.Random(number)
    blocks = len(profile.blocks)
    plan = rng.choice(nestings(0, blocks))
    while crosses(plan, profile.borders):
        plan = rng.choice(nestings(0, blocks))
    starts = [plans.first(node) for node in plan if isinstance(node, tuple)]
    return Schedule(plan, (), frozenset(s for s in starts if rng.random() < 0.7))


def check(step, chain, profile, schedule, tier, *, exact=True):
    with under(chain, schedule, tier):
        ledger = tiny.watch(step)
    predicted = predict(dataclasses.replace(profile, group_bytes=0), schedule)
    assert predicted.after_forward_bytes == ledger.marks[1].alive_bytes
    if exact:
        assert predicted.peak_bytes == ledger.peak_bytes()
    else:
        assert predicted.peak_bytes >= ledger.peak_bytes()


# Bytes.


@pytest.mark.parametrize("number", ROUNDS)
@pytest.mark.parametrize("workload", SIZES)
def test_bytes_are_predicted_exactly(workload, number, tmp_path):
    step, chain, profile = profiled(workload)
    schedule = random_schedule(profile, number)
    tier = Overlapped(Disk(directory=str(tmp_path)))
    # As for plans alone: blocks that keep neither input nor output, in groups in groups.
    check(step, chain, profile, schedule, tier, exact=workload != "mlp-chain")
    assert not list(tmp_path.iterdir())
