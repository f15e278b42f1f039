"""A strategy laid over the plan of another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from strategies.contract.registry import get
from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.execution.undo import Undo
from strategies.profiling.step import Step
from strategies.schedules.plan import Plan
from strategies.schedules.schedule import Schedule
from strategies.storage import Storage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layered(Strategy):
    """A strategy laid over the plan of another: how to keep, not what to keep.

    ``over`` is the specification of the strategy below, so that they compose:
    ``offload(over=compressed(codec=int8, over=sqrt))``.
    """

    over: str = "every_layer"

    def __post_init__(self) -> None:
        self.below()  # an unknown name fails here, not in the middle of a run

    def below(self) -> Strategy:
        """The strategy that ``over`` names."""
        return get(self.over)

    @property
    def exact(self) -> bool:
        """As exact as the strategy below."""
        return self.below().exact

    def plan(self, chain: Chain) -> Plan:
        """The plan of the strategy below."""
        return self.below().plan(chain)

    def schedule(self, chain: Chain) -> Schedule:
        """The schedule of the strategy below."""
        return self.below().schedule(chain)

    def profiled(self, chain: Chain, step: Step) -> Chain:
        """What the strategy below needs to know."""
        return self.below().profiled(chain, step)

    def storage(self) -> Storage | None:
        """The storage of the strategy below."""
        return self.below().storage()

    def unsupported(self, model: nn.Module, device: torch.device) -> str | None:
        """What the strategy below cannot do, this one cannot either."""
        return self.below().unsupported(model, device)

    def notes(self, chain: Chain) -> Sequence[str]:
        """The notes of the strategy below."""
        return self.below().notes(chain)

    def attention_kernel(self, model: nn.Module) -> str | None:
        """The kernel of the strategy below."""
        return self.below().attention_kernel(model)

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:
        """What the strategy below installs."""
        return self.below().install(model, chain)
