"""Compiled ways to run a block, among the eager ones of a profile. No torch.

The times of a block's modes are what each takes longer than the fastest, whichever that is, and the
faster of the two ways that can run again, eager or compiled without a budget, is how it runs in
groups: solvers and interpreter know no negative times, and need not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from strategies.schedules.modes import PS, BlockOperators, Mode
from strategies.schedules.profile import BlockCost
from strategies.schedules.schedule import ALL


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A compiled way to run a block.

    Attributes:
        mode: its bytes, times and FLOPs aside; of the name ``all``, it stands for the eager one.
        forward_ratio: the time of forward over that of the eager block.
        total_ratio: the same of forward and backward.
        unsaved_working_bytes: see `BlockCost`; ``None`` for one that cannot run in groups.
        recompute_working_bytes: see `BlockCost`; as above.
    """

    mode: Mode
    forward_ratio: float
    total_ratio: float
    unsaved_working_bytes: int | None = None
    recompute_working_bytes: int | None = None


def lean(block: BlockCost, variants: Sequence[Variant]) -> BlockCost:
    """The same as of `with_variants`, but run in groups in the way that needs least there."""
    names = [variant.mode.name for variant in variants if _runs_again(variant)]
    ways = [with_variants(block, variants, name) for name in (ALL, *names)]
    return min(ways, key=lambda way: (way.recompute_working_bytes, way.unsaved_working_bytes))


def with_variants(
    block: BlockCost, variants: Sequence[Variant], first: str | None = None
) -> BlockCost:
    """A block that has compiled modes too; its first mode is the fastest that can run again."""
    if not variants:
        return block
    eager_s = block.forward_s + block.backward_s
    eager = [mode for mode in block.modes if mode.name not in {v.mode.name for v in variants}]
    total_s = {mode.name: eager_s + mode.recompute_s for mode in eager}
    total_s |= {variant.mode.name: eager_s * variant.total_ratio for variant in variants}
    least_s = min(total_s.values())
    flops = block.modes[0].backward_flops
    compiled = [dataclasses.replace(v.mode, backward_flops=flops) for v in variants]
    timed = {
        mode.name: dataclasses.replace(mode, recompute_s=total_s[mode.name] - least_s)
        for mode in (*eager, *compiled)
    }
    operators = block.operators and _later(block.operators, eager_s - least_s)
    again = [variant for variant in variants if _runs_again(variant)]
    names = [variant.mode.name for variant in again] + [ALL] * (ALL in total_s)
    first = first or min(dict.fromkeys(names), key=total_s.__getitem__)
    base = next((variant for variant in again if variant.mode.name == first), None)
    rest = [mode for name, mode in timed.items() if name != first]
    changed = dataclasses.replace(block, modes=(timed[first], *rest), operators=operators)
    return _based(changed, base, least_s)


def _runs_again(variant: Variant) -> bool:
    return variant.unsaved_working_bytes is not None


def _later(operators: BlockOperators, seconds: float) -> BlockOperators:
    """The same, of a block that takes so much longer than its fastest mode."""
    return dataclasses.replace(operators, fixed_ps=operators.fixed_ps + round(seconds * PS))


def _based(block: BlockCost, base: Variant | None, least_s: float) -> BlockCost:
    """A block that runs in groups in its first mode, which ``base`` is, if it is compiled."""
    more_s, forward_s = block.modes[0].recompute_s, block.forward_s
    if base is None:
        return dataclasses.replace(
            block,
            backward_s=max(0.0, least_s - forward_s),
            last_recompute_s=block.last_recompute_s + more_s,
        )
    assert base.unsaved_working_bytes is not None
    assert base.recompute_working_bytes is not None
    forward_s *= base.forward_ratio
    return dataclasses.replace(
        block,
        unsaved_working_bytes=base.unsaved_working_bytes,
        recompute_working_bytes=base.recompute_working_bytes,
        again_working_bytes=base.recompute_working_bytes,
        last_recompute_flops=block.forward_flops,
        forward_s=forward_s,
        backward_s=max(0.0, least_s - forward_s),
        last_recompute_s=forward_s + more_s,
    )
