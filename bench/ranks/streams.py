"""What a rank reserves: FSDP2 communicates on streams of its own, and memory stays with a stream.

The caching allocator gives a stream's freed blocks to that stream alone. What parameters are
gathered into is allocated on one stream, what gradients are reduced into on a second
(`torch.distributed.fsdp`, ``_fsdp_collectives.py``), everything else on the default one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from bench.simulate.replay import Usage, steady
from bench.simulate.trace import Trace

DEFAULT = ""


def usage(
    recorded: Trace,
    streams: Mapping[int, str],
    workspaces: Sequence[int] = (),
    *,
    expandable: bool = False,
) -> Usage:
    """What a loop of such steps allocates and reserves, each stream in a pool of its own.

    Args:
        recorded: one step.
        streams: of the lives that are not the default stream's, the stream's name.
        workspaces: bytes that libraries keep, each in a block of its own.
        expandable: with expandable segments.
    """
    pools = [
        steady(
            _part(recorded, streams, name),
            workspaces=() if name else workspaces,
            expandable=expandable,
        )
        for name in sorted({DEFAULT, *streams.values()})
    ]
    return Usage(
        allocated_bytes=sum(pool.allocated_bytes for pool in pools),
        reserved_bytes=sum(pool.reserved_bytes for pool in pools),
    )


def _part(recorded: Trace, streams: Mapping[int, str], name: str) -> Trace:
    """The events of one stream's lives."""
    own = [streams.get(event.life, DEFAULT) == name for event in recorded.events]
    return dataclasses.replace(
        recorded,
        events=[event for event, mine in zip(recorded.events, own, strict=True) if mine],
        resident_events=sum(own[: recorded.resident_events]),
        forward_events=sum(own[: recorded.forward_events]),
    )
