"""What ``optimizer=`` may be: one, or several that step one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch

from strategies.execution.errors import Unsupported


@dataclasses.dataclass(frozen=True)
class Optimizers:
    """Several, as of matrices and of all else; each steps when backward is over."""

    each: tuple[torch.optim.Optimizer, ...]

    @property
    def state(self) -> Mapping[Any, Any]:
        """Of all of them: a parameter may be in two."""
        return {
            (i, key): value for i, one in enumerate(self.each) for key, value in one.state.items()
        }

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of all of them."""
        return [group for one in self.each for group in one.param_groups]

    def step(self) -> None:
        """One update of each."""
        for one in self.each:
            one.step()


AnyOptimizer: TypeAlias = torch.optim.Optimizer | Optimizers


def checked(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None,
) -> AnyOptimizer | None:
    """What a caller gave, as one.

    Raises:
        ValueError: it is no optimizer.
    """
    if isinstance(optimizer, (list, tuple)):
        return Optimizers(tuple(map(_made, optimizer)))
    return None if optimizer is None else _made(optimizer)


def _made(optimizer: Any) -> torch.optim.Optimizer:
    if isinstance(optimizer, torch.optim.Optimizer):
        return optimizer
    kind = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
    raise ValueError(
        "optimizer= takes an optimizer that was made, or a list of those that step after one"
        f" backward, not {kind}"
    )


def only(optimizer: AnyOptimizer) -> torch.optim.Optimizer:
    """The one that releases gradients.

    Raises:
        Unsupported: there are several.
    """
    if isinstance(optimizer, Optimizers):
        raise Unsupported("gradients are released to one optimizer, not to several")
    return optimizer
