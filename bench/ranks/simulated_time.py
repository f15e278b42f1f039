"""Time of a rank's step: operators, and collectives that overlap with them as FSDP2 overlaps.

A collective of n ranks takes as long as its link needs to carry (n − 1)/n of the whole, a sum twice
that: the ring algorithm at the link's full rate. Ranks of one node talk over its own links; over
several nodes a ring leaves each by the network of all its members. A latency is not modelled.

What one stage of a pipeline sends the next goes by one link, and only who receives it waits. While
a pipeline fills and drains, a stage has nothing to do: as many micro-batches' time as there are
other stages, in either schedule.

FSDP2's run on streams of their own, one after the other. Parameters are gathered as soon as those
before them are unpacked, while operators work with these; gradients, those in buckets of
DistributedDataParallel too, are reduced while backward goes on, and the optimizer waits for them.
For all others, operators wait.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from bench.devices.accelerators import Accelerator, Interconnect
from bench.ranks.parallel import Parallel
from bench.ranks.simulated_tracer import Collective
from bench.simulate.roofline import Operator, operator_s
from bench.simulate.trace import OPTIMIZER

GATHER, SEND, RECEIVE = "all_gather", "send", "recv"
PASSES = {GATHER: 1, "reduce_scatter": 1, "all_reduce": 2}
"""How often the whole goes round the ring."""


@dataclasses.dataclass(frozen=True)
class RankTime:
    """Seconds of a step.

    Attributes:
        step_s: from its begin to its end.
        communication_s: of all collectives, one after the other.
        exposed_s: for which operators wait for them, or for other stages.
        update_s: of the optimizer, after all of them.
    """

    step_s: float
    communication_s: float
    exposed_s: float
    update_s: float = 0.0


def interconnect_of(device: Accelerator) -> Interconnect:
    """How such devices reach each other.

    Raises:
        ValueError: the catalogue does not know.
    """
    if device.interconnect is None:
        raise ValueError(f"the catalogue knows no link between devices for {device.spec_text}")
    return device.interconnect


def collective_s(one: Collective, parallel: Parallel, links: Interconnect) -> float:
    """Seconds of a collective by itself."""
    if one.kind in {SEND, RECEIVE}:
        return one.whole_bytes / _rate_of_stages(parallel, links)
    part = (one.ranks - 1) / one.ranks
    return PASSES.get(one.kind, 1) * one.whole_bytes * part / _rate(one, parallel, links)


def _rate(one: Collective, parallel: Parallel, links: Interconnect) -> float:
    """Bytes a second that go round the ring: neighbours in it are so many ranks apart."""
    apart = parallel.tensor if one.of_parameters else 1
    if one.ranks * apart <= links.devices_per_node:
        return links.peer_bytes_per_s
    members = max(1, links.devices_per_node // apart)
    return min(links.peer_bytes_per_s, members * links.network_bytes_per_s)


def _rate_of_stages(parallel: Parallel, links: Interconnect) -> float:
    """Bytes a second from a stage to the next, whose ranks are the farthest apart."""
    inside = parallel.replicas * parallel.context * parallel.tensor < links.devices_per_node
    return links.peer_bytes_per_s if inside else links.network_bytes_per_s


def pipelined(stages: Sequence[RankTime], microbatches: int) -> RankTime:
    """Time of a pipeline's step: that of its slowest stage, and until that has work and after.

    Args:
        stages: each alone.
        microbatches: of a step.
    """
    slowest = max(stages, key=lambda stage: stage.step_s)
    idle_s = (slowest.step_s - slowest.update_s) * (len(stages) - 1) / microbatches
    return dataclasses.replace(
        slowest, step_s=slowest.step_s + idle_s, exposed_s=slowest.exposed_s + idle_s
    )


def rank_time(
    operators: Sequence[Operator],
    collectives: Sequence[Collective],
    unpacked: Sequence[int],
    parallel: Parallel,
    device: Accelerator,
) -> RankTime:
    """Time of a step.

    Args:
        operators: in order, with what their kernels attain.
        collectives: in the order of their issue.
        unpacked: how many operators were issued before each time that parameters were unpacked.
        parallel: how the ranks share the model.
        device: whose rates count.

    Raises:
        ValueError: the catalogue knows no link between such devices.
    """
    links = interconnect_of(device)
    clock = _Clock(parallel, links)
    issued: defaultdict[int, list[Collective]] = defaultdict(list)
    for one in collectives:
        issued[one.position].append(one)
    places, end = set(unpacked), len(operators)
    updating = next((i for i, op in enumerate(operators) if op.phase == OPTIMIZER), end)
    for index in range(end + 1):
        for one in issued[index]:
            clock.issue(one)
        if index in places:
            clock.wait(clock.gathered_s)
        if index in (updating, end):
            clock.wait(clock.reduced_s)
        if index == updating:
            clock.updating_s = clock.now_s
        if index < end:
            op = operators[index]
            clock.run(
                operator_s(op.flops, op.moved_bytes, op.dtype, device), unpacks=index in places
            )
    return RankTime(
        step_s=clock.now_s,
        communication_s=sum(collective_s(one, parallel, links) for one in collectives),
        exposed_s=clock.exposed_s,
        update_s=clock.now_s - clock.updating_s,
    )


class _Clock:
    """A rank's operators, and FSDP2's collectives beside them, in seconds from the step's begin.

    Attributes:
        now_s: operators are here.
        exposed_s: for which they waited.
        free_s: the last of FSDP2's collectives has ended.
        gathered_s: the last parameters are there.
        reduced_s: the last gradients are.
        unpacked_s: parameters were last unpacked, which frees the next ones' way.
        updating_s: the optimizer began.
    """

    def __init__(self, parallel: Parallel, links: Interconnect) -> None:
        self.parallel, self.links = parallel, links
        self.now_s = self.exposed_s = self.free_s = 0.0
        self.gathered_s = self.reduced_s = self.unpacked_s = self.updating_s = 0.0

    def issue(self, one: Collective) -> None:
        """A collective; operators wait for those that are not of parameters, but to send none."""
        if one.kind == SEND:
            return
        takes_s = collective_s(one, self.parallel, self.links)
        if not one.of_parameters:
            self.wait(self.now_s + takes_s)
        elif one.kind == GATHER:
            self.free_s = self.gathered_s = max(self.free_s, self.unpacked_s) + takes_s
        else:
            self.free_s = self.reduced_s = max(self.free_s, self.now_s) + takes_s

    def wait(self, until_s: float) -> None:
        """Operators go on no earlier."""
        self.exposed_s += max(0.0, until_s - self.now_s)
        self.now_s = max(self.now_s, until_s)

    def run(self, takes_s: float, *, unpacks: bool) -> None:
        """One operator."""
        self.now_s += takes_s
        if unpacks:
            self.unpacked_s = self.now_s
