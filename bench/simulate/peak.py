"""Where is the peak, what makes it up, and could checkpointing or offloading more lower it?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.simulate.trace import Life, Trace
from bench.store.parts import PeakMakeUp

# What a plan or a storage can put elsewhere: everything that is held for a later backward.
MOVABLE = ("boundary activations", "saved tensors", "recomputed activations")
_CLOSE = 0.99


def peak_event(trace: Trace) -> int:
    """Index of the event after which most bytes are alive."""
    alive = trace.alive_bytes()
    return max(range(len(alive)), key=alive.__getitem__)


def describe_peak(trace: Trace, blocks: Sequence[str]) -> PeakMakeUp:
    """Phase, module and operator at the peak, its make-up, its floor, advice.

    Args:
        trace: of one step.
        blocks: dotted paths of the chain's blocks.
    """
    index = peak_event(trace)
    event = trace.events[index]
    parts = trace.by_category(index)
    floor_bytes, where = floor(trace, blocks)
    return PeakMakeUp(
        peak_phase=event.phase,
        peak_module=event.module or "model",
        peak_operator=event.operator,
        peak_by_category=parts,
        peak_floor_bytes=floor_bytes,
        advice=advice(sum(parts.values()), floor_bytes, where, parts),
    )


def floor(trace: Trace, blocks: Sequence[str]) -> tuple[int, str]:
    """The peak that checkpointing or offloading whole blocks cannot go below, and where it is.

    At every moment all that other blocks hold for their backward could be elsewhere; the working
    set of the block at hand, parameters, gradients, optimizer state and logits could not. A
    strategy that changes what a block does inside (selective, flash attention) can go below.
    """
    names = frozenset(blocks)
    owners = [_owner(life, names) for life in trace.lives]
    alive = movable = best = 0
    by_block: Counter[str] = Counter()
    where = ""
    for event in trace.events:
        alive += event.delta_bytes
        owner = owners[event.life]
        if owner is not None:
            movable += event.delta_bytes
            by_block[owner] += event.delta_bytes
        here = _block_of(event.module, names)
        floor_bytes = alive - movable + (by_block[here] if here else 0)
        if floor_bytes > best:
            best, where = floor_bytes, f"{event.phase} of {here or event.module or 'the model'}"
    return best, where


def _owner(life: Life, blocks: frozenset[str]) -> str | None:
    """The block that a movable storage belongs to; ``None`` if it cannot be moved."""
    return _block_of(life.module, blocks) if life.category in MOVABLE else None


def _block_of(module: str, blocks: frozenset[str]) -> str | None:
    return next((name for name in _prefixes(module) if name in blocks), None)


def _prefixes(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def advice(peak_bytes: int, floor_bytes: int, where: str, parts: dict[str, int]) -> str:
    """One sentence for the user who wants a lower peak."""
    largest = max(parts, key=parts.__getitem__)
    if floor_bytes >= _CLOSE * peak_bytes:
        return (
            "checkpointing or offloading whole blocks cannot lower this peak:"
            f" it is in the {where}, and mostly {largest}"
        )
    gb = (peak_bytes - floor_bytes) / 1e9
    return (
        f"checkpointing or offloading more blocks could lower this peak by up to {gb:.3g} GB;"
        f" the floor is in the {where}"
    )
