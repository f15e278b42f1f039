"""What concerns all blocks together, composed from the blocks that were watched."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from strategies.execution.chain import Chain
from strategies.profiling.watched import Watched, after
from strategies.schedules.modes import PS
from strategies.schedules.profile import Casts


def untracked_bytes(normal: Watched, like: Sequence[int]) -> int:
    """As `Watched.untracked_bytes`, had every block run.

    Args:
        normal: a step in which some blocks were passed by.
        like: for each block, the one that was watched for it.
    """
    trace = normal.allocator
    if trace is None:
        return 0

    def untracked(begin: str, end: str) -> int:
        return trace.gained_bytes(begin, end) - normal.gained_bytes(begin, end)

    own = [untracked(f"enter {index}", f"leave {index}") for index in range(len(like))]
    more = sum(own[other] - own[index] for index, other in enumerate(like))
    return max(0, untracked("start", "forward done") + more)


def lingering_bytes(normal: Watched, like: Sequence[int], casts: Mapping[int, Casts]) -> list[int]:
    """What more would be alive as each block is entered, and at the tail, had every block run.

    Autocast keeps its copies of weights until it ends, saved or not: where that is before the tail,
    there are none at it.
    """
    own = [normal.gained_bytes(f"enter {index}", f"leave {index}") for index in range(len(like))]
    more = [own[other] - own[index] for index, other in enumerate(like)]
    here = enumerate(more)  # one that ran after all adds nothing
    gone = [bool(extra) * casts[index].gone_bytes(len(like)) for index, extra in here]
    *before, tail = itertools.accumulate(more, initial=0)
    return [*before, tail - sum(gone)]


def fixed_s(normal: Watched, blocks: int) -> float:
    """Time of the step outside the blocks; counted in whole picoseconds, so that it is exact."""

    def time_ps(begin: str, end: str) -> int:
        first, last = normal.at(begin), normal.at(end)
        return last.time_ps - last.recompute_ps - first.time_ps + first.recompute_ps

    inside_ps = sum(
        normal.at(f"leave {index}").time_ps
        - normal.at(f"enter {index}").time_ps
        + max(0, time_ps(f"backward {index}", after(index)))
        for index in range(blocks)
    )
    return (time_ps("start", "updated") - inside_ps) / PS


def gradient_bytes(chain: Chain, *, exist: bool) -> list[int]:
    """Bytes of parameter gradients that each block's backward creates; backward runs in reverse.

    Args:
        chain: the blocks.
        exist: there are gradients already, to be added to.
    """
    if exist:
        return [0] * len(chain)
    seen: set[int] = set()
    sizes = []
    for block in reversed(chain.blocks):
        new = [p for p in block.parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in new}
        sizes.append(sum(p.numel() * p.element_size() for p in new))
    return sizes[::-1]
