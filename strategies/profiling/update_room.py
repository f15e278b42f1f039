"""A step whose gradients are released, watched: the updates' room is taken, and nothing updated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from strategies.execution.undo import Undo

_NUMBER_BYTES = torch.finfo(torch.float64).bits // 8
"""Of a plain number (a divisor, say) that an operator of the update is given. Then it is cast to
the parameter's own type. Both are memory of the host, where no ledger of operators sees them."""


@dataclasses.dataclass(frozen=True)
class UpdateRoom:
    """What is called with a parameter whose gradient is whole, in the update's place.

    It needs the bytes that the update works with, and lets go of the gradient; the weight stays.

    Attributes:
        working_bytes: most alive during the parameter's update, its gradient not counted.
    """

    working_bytes: int

    def __call__(self, parameter: Tensor) -> None:
        """The gradient is alive until its update is over."""
        on_host = parameter.device.type == "cpu"
        size_bytes = self.working_bytes + on_host * (_NUMBER_BYTES + parameter.element_size())
        torch.empty(size_bytes, dtype=torch.uint8, device=parameter.device)
        parameter.grad = None


def install(step: Any) -> list[Undo]:
    """Release the gradients of a step's model without updating anything.

    Args:
        step: on real or fake tensors. Its ``update_bytes`` are those of each parameter's update, by
            its name; the others keep their gradients, and so does a step that has none.

    Returns:
        How to undo it.
    """
    working_bytes: Mapping[str, int] = getattr(step, "update_bytes", {})
    parameters = step.model.named_parameters() if working_bytes else ()
    return [
        p.register_post_accumulate_grad_hook(UpdateRoom(working_bytes[name])).remove
        for name, p in parameters
        if name in working_bytes
    ]
