"""What a refusal says besides: what needs less than the smallest budget, each with its bytes.

Other strategies, and a loss in chunks, by the same profile; half of the batch, released gradients
and flash attention by another profile of the same step: what is named is enough, to the byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Protocol, cast

from torch import nn

from strategies.contract.profiled import profiled
from strategies.contract.registry import get
from strategies.contract.strategy import Strategy
from strategies.execution import release
from strategies.execution.chain import Chain
from strategies.execution.errors import Unsupported
from strategies.execution.undo import installed
from strategies.profiling.halved import Halved
from strategies.profiling.optimizers import only
from strategies.profiling.step import ExampleStep
from strategies.schedules.interpreter import predict
from strategies.schedules.profile import ChainProfile
from strategies.schedules.solution import Solution

_WORTH = 0.01
"""Of the smallest budget: what is tried and saves less is not named."""


class Planner(Protocol):
    """What is asked of a strategy that keeps a budget."""

    def spec(self) -> str:
        """See `strategies.Strategy`."""

    def profile_of(self, chain: Chain) -> ChainProfile:
        """See `strategies.Budgeted`, also for the others."""

    def solution(self, profile: ChainProfile, budget_bytes: int) -> Solution | None:
        """The fastest schedule within a budget."""

    def smallest_bytes(self, profile: ChainProfile) -> int:
        """The smallest budget that is enough."""


class NothingFits(Unsupported):
    """A budget is too small.

    Attributes:
        planner: whose budget it is.
        profile: that it planned by.
        smallest_bytes: the smallest budget that it could keep.
    """

    def __init__(self, planner: Planner, profile: ChainProfile, budget_bytes: int) -> None:
        self.planner, self.profile = planner, profile
        self.smallest_bytes = planner.smallest_bytes(profile)
        super().__init__(
            f"{planner.spec()}: nothing fits into {budget_bytes:,} bytes; the smallest budget"
            f" that does is {self.smallest_bytes:,} bytes{self._others()}{self._tail()}"
            f"{''.join(f'; {why}' for why in profile.left_out)}"
        )

    def _others(self) -> str:
        """What other lossless strategies need, by the same profile."""
        sizes = {name: _planner(name).smallest_bytes(self.profile) for name in self._names()}
        name = min(sizes, key=lambda name: sizes[name], default=None)
        if name is not None and sizes[name] < self.smallest_bytes:
            return f"; {name} needs {sizes[name]:,} bytes"
        return f" ({' and '.join(sizes)} cannot do with less)" if sizes else ""

    def _names(self) -> Iterator[str]:
        own = self.planner.spec().partition("(")[0]
        if own != "auto" and knows_operators(self.profile):
            yield "auto"
        if own != "hybrid" and self.profile.link_bytes_per_s:
            yield "hybrid"

    def _tail(self) -> str:
        """What a loss in chunks is about, where tail and loss are the peak."""
        size_bytes = tail_bytes(self.planner, self.profile, self.smallest_bytes)
        about = f"tail and loss take {size_bytes:,} bytes of it, less with a loss in chunks"
        return f"; {about}" if size_bytes else ""

    def with_tried(self, model: nn.Module, chain: Chain, step: ExampleStep) -> Unsupported:
        """The same, and what each of the things that were tried would need."""
        tried = "; ".join(sentences(self, model, chain, step))
        return Unsupported(f"{self}. What needs less: {tried}" if tried else str(self))


def tail_bytes(planner: Planner, profile: ChainProfile, budget_bytes: int) -> int:
    """Bytes that tail and loss keep and work with, if the peak of the leanest schedule is there."""
    solution = planner.solution(profile, budget_bytes)
    phase = predict(profile, solution.schedule).peak_phase if solution else ""
    if phase == "tail":
        return profile.tail_working_bytes
    backward_bytes = profile.tail_saved_bytes + profile.tail_backward_working_bytes
    return backward_bytes if phase == "backward of the tail" else 0


def knows_operators(profile: ChainProfile) -> bool:
    """Whether the profile lists what `auto` may choose from."""
    return any(block.operators is not None for block in profile.blocks)


@dataclasses.dataclass(frozen=True)
class _Trial:
    """Tries something else in a refused strategy's place."""

    refusal: NothingFits
    model: nn.Module
    chain: Chain

    def needed_bytes(self, step: ExampleStep, planner: Planner | None = None) -> int | None:
        """The smallest budget of another step, or by another strategy, if that is less."""
        planner = planner or self.refusal.planner
        with contextlib.suppress(Exception):  # the step may be anybody's, and may not run so
            strategy = cast("Strategy", planner)
            chain = profiled(self.model, strategy, step, blocks=self.chain.paths)
            size_bytes = planner.smallest_bytes(planner.profile_of(chain))
            most_bytes = self.refusal.smallest_bytes * (1 - _WORTH)
            return size_bytes if size_bytes <= most_bytes else None
        return None


def sentences(
    refusal: NothingFits, model: nn.Module, chain: Chain, step: ExampleStep
) -> Iterator[str]:
    """What would need less than the refused strategy, each tried on the example.

    Args:
        refusal: of a budget for ``step``.
        model: under no strategy; gradients, buffers and random states are afterwards what they
            were.
        chain: its blocks.
        step: that was profiled.
    """
    trial = _Trial(refusal, model, chain)
    for remedy in (_auto, _half, _released, _flash):
        sentence = remedy(trial, step)
        if sentence:
            yield sentence


def _auto(trial: _Trial, step: ExampleStep) -> str | None:
    if knows_operators(trial.refusal.profile):
        return None  # said already
    size_bytes = trial.needed_bytes(step, _planner("auto"))
    return f"auto, {size_bytes:,} bytes" if size_bytes else None


def _half(trial: _Trial, step: ExampleStep) -> str | None:
    half = Halved.of(step)
    size_bytes = trial.needed_bytes(half.step) if half else None
    if half is None or size_bytes is None:
        return None
    fewer_bytes = (trial.refusal.smallest_bytes - size_bytes) // (half.of_rows - half.rows)
    rows = f"{half.rows} of the batch's {half.of_rows} rows"
    return f"{rows}, {size_bytes:,} bytes ({fewer_bytes:,} a row)"


def _released(trial: _Trial, step: ExampleStep) -> str | None:
    if step.release_gradients or step.accumulation:
        return None
    if step.optimizer is None:
        sizes = [p.numel() * p.element_size() for p in trial.model.parameters() if p.requires_grad]
        counted = f"which keeps none of {sum(sizes):,} bytes of gradients"
        return f"release_gradients=True with optimizer=, {counted}" if sizes else None
    with contextlib.suppress(Unsupported):
        release.refuse(trial.model, only(step.optimizer))
        size_bytes = trial.needed_bytes(dataclasses.replace(step, release_gradients=True))
        return f"release_gradients=True, {size_bytes:,} bytes" if size_bytes else None
    return None


def _flash(trial: _Trial, step: ExampleStep) -> str | None:
    flash = get("flash_checkpoint")
    if not _attends_eagerly(trial.model) or flash.unsupported(trial.model, step.device):
        return None
    with contextlib.suppress(Exception), installed(lambda: flash.install(trial.model, trial.chain)):
        size_bytes = trial.needed_bytes(step)
        return f"flash attention, {size_bytes:,} bytes" if size_bytes else None
    return None


def _attends_eagerly(model: nn.Module) -> bool:
    """Whether the model has an attention that holds its scores, and that can be switched."""
    kernels = {getattr(module, "kernel", None) for module in model.modules()}
    implementation = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return "math" in kernels or implementation == "eager"


def _planner(name: str) -> Planner:
    return cast("Planner", get(name))
