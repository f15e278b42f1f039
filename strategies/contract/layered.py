"""A strategy laid over the plan of another."""

from __future__ import annotations

import dataclasses
from typing import Any

from strategies.contract.registry import get
from strategies.contract.strategy import Strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layered(Strategy):
    """A strategy laid over the plan of another: how to keep, not what to keep.

    ``over`` is the specification of the strategy below, so that they compose:
    ``offload(over=compressed(codec=int8, over=sqrt))``. What a subclass does not define itself is
    the answer of the strategy below.
    """

    over: str = "every_layer"

    def __post_init__(self) -> None:
        self.below()  # an unknown name fails here, not in the middle of a run

    def below(self) -> Strategy:
        """The strategy that ``over`` names."""
        return get(self.over)


@dataclasses.dataclass(frozen=True)
class _Below:
    """An attribute or a method of the strategy below; of the class itself, the contract's own."""

    name: str

    def __get__(self, strategy: Layered | None, owner: type[Layered]) -> Any:
        return getattr(Strategy if strategy is None else strategy.below(), self.name)


def contract() -> list[str]:
    """All that a strategy does: the public names that `Strategy` itself defines."""
    return [name for name in vars(Strategy) if not name.startswith("_")]


for _name in contract():  # one rule, so that nothing is forgotten
    setattr(Layered, _name, _Below(_name))
