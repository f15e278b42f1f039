"""The strategy contract: a named, frozen set of parameters that transforms a model."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import nn

from strategies.contract.floor import Floor
from strategies.execution.chain import Chain
from strategies.execution.undo import Undo
from strategies.profiling.step import Step
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import Prediction
from strategies.schedules.plan import Plan
from strategies.schedules.schedule import Schedule
from strategies.storage import Storage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """What a strategy says of itself: its name, its parameters, and what the textbook claims."""

    shown: ClassVar[tuple[str, ...]] = ()
    """Parameters that `spec` names even at their defaults, because they tell variants apart."""
    textbook_memory: ClassVar[str | None] = None
    textbook_compute: ClassVar[str | None] = None

    @classmethod
    def name(cls) -> str:
        """``EveryLayer`` is ``every_layer``."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def grid(cls) -> Sequence[Strategy]:
        """What a sweep tries."""
        return (cast("Strategy", cls()),)

    def spec(self) -> str:
        """The text that `strategies.get` reads back: ``every_k(k=4)``."""
        changed = [
            f"{field.name}={_written(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if field.name in self.shown or getattr(self, field.name) != field.default
        ]
        return self.name() + (f"({', '.join(changed)})" if changed else "")

    def params(self) -> dict[str, Any]:
        """Fields and values, for the record."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Planned:
    """What a strategy decides for one chain, worked out once.

    Attributes:
        schedule: what is kept, what is recomputed, and where boundaries rest.
        notes: what a user should know about these parameters on this chain.
        prediction: what the schedule costs, where the strategy knows what the blocks cost.
    """

    schedule: Schedule
    notes: tuple[str, ...] = ()
    prediction: Prediction | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strategy(Described):
    """Base of all strategies. One file each; fields are parameters and become columns.

    Most strategies only override `plan`. The class variables quote the textbook's table, so that a
    report can print theory beside measurement without importing the strategy.

    Everything that this class itself defines is what a strategy *does*: `Layered` hands all of it
    on to the strategy below. What one *says of itself* is in `Described`.
    """

    needs_profile: ClassVar[bool] = False
    """It asks what the blocks cost: `strategies.apply` must be given an example or a profile."""
    compiled: ClassVar[bool] = False
    """It hands forward to a compiler, which keeps and recomputes operators instead of blocks: no
    block is entered one by one, running statistics are close instead of equal, and the first step
    takes the time of compiling."""
    opaque: ClassVar[bool] = False
    """What is kept is decided elsewhere than in a plan: none is printed or predicted."""

    @property
    def exact(self) -> bool:
        """Gradients are promised bitwise equal to those of ``none``."""
        return True

    @property
    def peer(self) -> str | None:
        """Whose implementation it is, with its version; ``None``: our own."""
        return None

    @property
    def counted(self) -> bool:
        """Whether every operator passes PyTorch's dispatcher, where FLOPs are counted."""
        return True

    def floor(self, chain: Chain) -> Floor | None:  # noqa: ARG002
        """How far the gradient may be from the true one; ``None``: no further than rounding.

        Of strategies that are not `exact` and approximate on purpose.
        """
        return None

    def plan(self, chain: Chain) -> Plan:
        """Which blocks of ``chain`` to keep and which to recompute."""
        return plans.plain(len(chain))

    def schedule(self, chain: Chain) -> Schedule:
        """The plan, and how each block runs and where its boundary rests."""
        return Schedule(self.plan(chain))

    def notes(self, chain: Chain) -> Sequence[str]:  # noqa: ARG002
        """What a user should know about these parameters on this chain."""
        return ()

    def planned(self, chain: Chain) -> Planned:
        """Schedule and notes together, for strategies that work out both at once."""
        return Planned(self.schedule(chain), tuple(self.notes(chain)))

    def candidates(self, chain: Chain) -> Sequence[Planned]:  # noqa: ARG002
        """Plans of which the fastest is to be taken, as measured; none: `planned` is final."""
        return ()

    def profiled(self, chain: Chain, step: Step) -> Chain:  # noqa: ARG002
        """``chain`` with what this strategy needs to know about it, seen on a step."""
        return chain

    def storage(self) -> Storage | None:
        """How boundaries rest between forward and backward; ``None`` leaves them as they are."""
        return None

    def unsupported(self, model: nn.Module, device: torch.device) -> str | None:  # noqa: ARG002
        """Why this strategy cannot run here, or ``None``."""
        return None

    def attention_kernel(self, model: nn.Module) -> str | None:  # noqa: ARG002
        """The attention kernel that this strategy switches ``model`` to, for the record."""
        return None

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:  # noqa: ARG002
        """Change ``model`` beyond plan and storage; returns how to change it back."""
        return ()


def _written(value: Any) -> str:
    """A value as `strategies.get` reads it: words and specifications bare, other text quoted."""
    if not isinstance(value, str):
        return repr(value)
    try:
        tree = ast.parse(value, mode="eval").body
        bare = isinstance(tree, (ast.Name, ast.Call)) and ast.unparse(tree) == value
    except (SyntaxError, ValueError):
        bare = False
    return value if bare else repr(value)
