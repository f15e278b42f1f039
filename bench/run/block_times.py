"""Block times by the device's own clock: a chain profile whose times are measured.

A profile made by `strategies.profiling` weighs operators by a roofline. Here whole steps run with
the clock read, after the device's queue is empty, wherever a block begins or ends: as the model
is, with every block in a recompute group of its own, and under each op policy. The kinds of steps
are interleaved, so that a slow minute hits them all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from bench.measure.time import Switch, interleave, synchronize
from strategies.execution import block_modes as modes_of
from strategies.execution.chain import Chain
from strategies.execution.layout import install
from strategies.execution.undo import Undo, installed
from strategies.profiling.saved import hooks
from strategies.profiling.step import Step
from strategies.schedules import plan as plans
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.schedule import ALL

ROUNDS = 8
GROUPS = "every block in a group"
HEAD = "backward of the head"


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """Where the time of one step went, in seconds.

    Attributes:
        forward_s: of each block.
        backward_s: of each block, recompute included.
        step_s: of the whole step.
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    step_s: float

    @property
    def fixed_s(self) -> float:
        """Of everything but the blocks."""
        return self.step_s - sum(self.forward_s) - sum(self.backward_s)


def measure(step: Step, chain: Chain, profile: ChainProfile, rounds: int = ROUNDS) -> ChainProfile:
    """``profile`` with its times replaced by measured ones; bytes and FLOPs stay.

    A profile with compiled blocks stays as it is: their times are shares of the eager ones', which
    were measured already.

    Blocks that cost the same in bytes and FLOPs are one block as far as time goes: they share the
    median over all of them and all rounds.

    Args:
        step: on a real device; its model is under no plan. Its gradients are dropped; see
            `strategies.profiling.step.preserved`.
        chain: the blocks.
        profile: of that chain.
        rounds: each runs every kind of step once; one more is not counted.
    """
    if profile.eager is not None:
        return profile
    steps: dict[str, list[StepTimes]] = {}
    contenders = {
        name: _switch(step, chain, install, steps.setdefault(name, []))
        for name, install in _installs(chain, profile).items()
    }
    for count in (1, rounds):
        interleave(contenders, count, step.device)
    step.drop_gradients()
    return with_times(profile, {name: times[1:] for name, times in steps.items()})


def _installs(chain: Chain, profile: ChainProfile) -> dict[str, Callable[[], list[Undo]]]:
    """The kinds of steps: how to put the model under each."""

    def policy(name: str) -> Callable[[], list[Undo]]:
        able = [i for i, block in enumerate(profile.blocks) if _has(block, name)]
        return lambda: modes_of.install(chain, dict.fromkeys(able, name))

    groups = plans.uniform(len(chain), 1)
    names = dict.fromkeys(mode.name for block in profile.blocks for mode in block.modes)
    policies = {name: policy(name) for name in names if name != ALL}
    return {ALL: list, GROUPS: lambda: install(chain, groups), **policies}


def _has(block: BlockCost, name: str) -> bool:
    return any(mode.name == name for mode in block.modes)


def _switch(
    step: Step, chain: Chain, install: Callable[[], list[Undo]], times: list[StepTimes]
) -> Switch:
    @contextlib.contextmanager
    def switch() -> Iterator[Callable[[], None]]:
        step.drop_gradients()
        with installed(install):
            yield lambda: times.append(_timed(step, chain))

    return switch


def _timed(step: Step, chain: Chain) -> StepTimes:
    """One step, the clock read at every border of a block."""
    at: dict[str, float] = {}

    def mark(name: str) -> None:
        if name not in at:  # a recompute enters the block again
            synchronize(step.device)
            at[name] = time.perf_counter()

    def enter(index: int, boundary: Tensor, others: Sequence[Tensor]) -> None:
        del others
        if index == 0 and boundary.requires_grad and f"enter {index}" not in at:
            boundary.register_hook(lambda _: mark(HEAD))
        mark(f"enter {index}")

    def leave(index: int, output: Tensor) -> None:
        if output.requires_grad and f"leave {index}" not in at:
            output.register_hook(lambda _: mark(f"backward {index}"))
        mark(f"leave {index}")

    with hooks(chain, enter, leave):
        mark("start")
        step.backward(step.forward())
        for index in reversed(range(len(chain))):
            mark(f"backward {index}")  # of those that no gradient reaches
        mark(HEAD)
        step.update()
        mark("end")
    return _between(at, len(chain))


def _between(at: Mapping[str, float], n_blocks: int) -> StepTimes:
    begins = [HEAD, *(f"backward {index}" for index in range(n_blocks))]
    return StepTimes(
        forward_s=tuple(at[f"leave {i}"] - at[f"enter {i}"] for i in range(n_blocks)),
        backward_s=tuple(at[begins[i]] - at[begins[i + 1]] for i in range(n_blocks)),
        step_s=at["end"] - at["start"],
    )


def with_times(profile: ChainProfile, steps: Mapping[str, Sequence[StepTimes]]) -> ChainProfile:
    """``profile`` with the medians of measured ``steps``.

    Args:
        profile: bytes and FLOPs of the blocks.
        steps: by kind: ``all``, `GROUPS`, and op policies; entry *i* of each is of the same
            round.
    """
    kinds: dict[BlockCost, list[int]] = {}
    for index, block in enumerate(profile.blocks):
        kinds.setdefault(_timeless(block), []).append(index)
    costs = {kind: _with_times(kind, alike, steps) for kind, alike in kinds.items()}
    return dataclasses.replace(
        profile,
        blocks=tuple(costs[_timeless(block)] for block in profile.blocks),
        fixed_s=_median([times.fixed_s for times in steps[ALL]]),
    )


def _timeless(block: BlockCost) -> BlockCost:
    modes = tuple(dataclasses.replace(mode, recompute_s=0.0) for mode in block.modes)
    return dataclasses.replace(
        block, modes=modes, forward_s=0.0, backward_s=0.0, last_recompute_s=0.0
    )


def _with_times(
    block: BlockCost, alike: Sequence[int], steps: Mapping[str, Sequence[StepTimes]]
) -> BlockCost:
    def more_s(name: str) -> float:
        """How much longer backward takes than in mode ``all``, in the same round."""
        pairs = list(zip(steps[name], steps[ALL], strict=True))
        return _median(
            [one.backward_s[i] - all_.backward_s[i] for one, all_ in pairs for i in alike]
        )

    modes = [
        dataclasses.replace(mode, recompute_s=more_s(mode.name) if mode.name != ALL else 0.0)
        for mode in block.modes
    ]
    last_recompute_s = more_s(GROUPS)
    return dataclasses.replace(
        block,
        modes=tuple(modes),
        operators=block.operators and block.operators.lasting(last_recompute_s),
        forward_s=_median([times.forward_s[i] for times in steps[ALL] for i in alike]),
        backward_s=_median([times.backward_s[i] for times in steps[ALL] for i in alike]),
        last_recompute_s=last_recompute_s,
    )


def _median(values: Sequence[float]) -> float:
    """Not below 0: noise can make a difference of two times negative, but no time is."""
    return max(0.0, statistics.median(values))
