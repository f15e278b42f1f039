"""What a rank reserves: FSDP2 communicates on streams of its own, and memory stays with a stream.

The caching allocator gives a stream's freed blocks to that stream alone. What parameters are
gathered into is allocated on one stream, what gradients are reduced into on a second
(`torch.distributed.fsdp`, ``_fsdp_collectives.py``), everything else on the default one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bench.simulate.replay import steady
from bench.simulate.trace import Trace

DEFAULT = ""


def parts(recorded: Trace, streams: Mapping[int, str]) -> dict[str, Trace]:
    """What lives on each stream, the default one first.

    Args:
        recorded: one step.
        streams: of the lives that are not the default stream's, the stream's name.
    """
    names = sorted({DEFAULT, *streams.values()})
    return {name: _part(recorded, streams, name) for name in names}


def taken_bytes(recorded: Trace, streams: Mapping[int, str], *, expandable: bool = False) -> int:
    """What a loop of such steps reserves on the other streams than the default one."""
    others = list(parts(recorded, streams).values())[1:]
    return sum(steady(one, expandable=expandable).reserved_bytes for one in others)


def _part(recorded: Trace, streams: Mapping[int, str], name: str) -> Trace:
    """The events of one stream's lives."""
    own = [streams.get(event.life, DEFAULT) == name for event in recorded.events]
    return dataclasses.replace(
        recorded,
        events=[event for event, mine in zip(recorded.events, own, strict=True) if mine],
        resident_events=sum(own[: recorded.resident_events]),
        forward_events=sum(own[: recorded.forward_events]),
    )
