"""What a model case does under no strategy, worked out once for all strategies."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from models import CASES, Case, Result, seed, step
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import strategies
from strategies.contract.budgeted import Budgeted
from strategies.profiling.order import ordered
from strategies.profiling.step import ExampleStep, preserved
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.profile import ChainProfile

LARGER = 32
TRAIN = "train"
MODES: dict[str, dict[str, Any]] = {
    TRAIN: {},
    "autocast": {"autocast": True},
    "accumulated": {"passes": 2, "backwards": 2},
    # PyTorch refuses, in a clear sentence, to keep a compiled graph for another backward.
    "accumulated once": {"passes": 2},
}


class Reference:
    """One case under no strategy.

    Attributes:
        case: the model and its input.
        state: parameters and buffers at the start.
        draws: a step takes random numbers.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        model = case.model()
        self.state = {name: value.clone() for name, value in model.state_dict().items()}
        data = case.input()
        before = torch.get_rng_state()
        model(data)
        self.draws = not torch.equal(before, torch.get_rng_state())
        self._steps: dict[tuple[str, bool], Result] = {}

    def step(self, mode: str = TRAIN, *, training: bool = True) -> Result:
        """A step in one of `MODES`."""
        if (mode, training) not in self._steps:
            model = self.case.model().train(training)
            self._steps[mode, training] = step(model, self.case.input(), **MODES[mode])
        return self._steps[mode, training]

    @functools.cached_property
    def evaluated(self) -> list[Tensor]:
        """See `evaluated`."""
        return evaluated(self.case.model(), self.case)

    @functools.cached_property
    def profile(self) -> ChainProfile:
        """What the blocks cost, on a batch that makes recomputing worth while.

        With the batch of the case, parameters and random states are most of what is alive.
        """
        return self.profiled("optimal")

    @functools.cached_property
    def listed(self) -> ChainProfile:
        """The same, each block's operators listed, which few strategies ask for."""
        return self.profiled("auto")

    def profiled(self, spec: str) -> ChainProfile:
        """As a strategy has it."""
        model = self.case.model()
        batch = torch.cat([self.case.input()] * LARGER)
        profile = strategies.profiled(model, spec, ExampleStep(model, batch)).profile
        assert profile is not None
        return profile

    def peak_bytes(self, plan: plans.Plan) -> int:
        """Of a step under a plan."""
        return predict(self.profile, plan).peak_bytes

    @property
    def tight_bytes(self) -> int:
        """A budget that makes every strategy recompute, and that every strategy can keep.

        Half of what checkpointing every block saves. Of blocks unlike each other, some are too
        small to save anything.
        """
        least_bytes = self.peak_bytes(plans.uniform(len(self.profile.blocks), 1))
        return (min(least_bytes, self.loose_bytes) + self.loose_bytes) // 2

    @property
    def loose_bytes(self) -> int:
        """A budget for everything."""
        return self.peak_bytes(plans.plain(len(self.profile.blocks)))

    def chain(self, model: nn.Module, strategy: strategies.Strategy) -> strategies.Chain | None:
        """The blocks of ``model`` with their costs, for strategies that ask for them."""
        if not isinstance(strategy, Budgeted):
            return None
        profile = self.listed if strategy.operators else self.profile
        step = ExampleStep(model, self.case.input())
        with preserved(model):
            chain = ordered(strategies.find_chain(model), step)
        return dataclasses.replace(chain, profile=profile)


@functools.lru_cache(maxsize=2)
def reference(name: str) -> Reference:
    """Of the case of that name; tests go through the cases one by one."""
    return Reference(CASES[name])


def evaluated(model: nn.Module, case: Case) -> list[Tensor]:
    """What the model returns without gradients in training and in evaluation mode."""
    found: list[Tensor] = []
    for training in (True, False):
        seed(3)
        with torch.no_grad():
            found += tree_leaves(model.train(training)(case.input()))
        found.append(torch.get_rng_state())
    return found
