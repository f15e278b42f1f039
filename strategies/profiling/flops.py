"""FLOPs by counting: every operator that runs, by PyTorch's own formulas."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten


def _cpu_flash(args: tuple[Any, ...]) -> int:
    query, key, value = args[:3]
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _cpu_flash_backward(args: tuple[Any, ...]) -> int:
    grad, query, key, value = args[:4]
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


# PyTorch 2.13 has formulas for the CUDA flash kernels, not for the CPU's own; the work is the same.
_CPU_FLASH: dict[Any, Callable[[tuple[Any, ...]], int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _cpu_flash,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_flash_backward,
}


def flops_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Floating-point operations of one operator call (a multiply-add is two)."""
    packet = getattr(func, "_overloadpacket", None)
    if packet in _CPU_FLASH:
        return _CPU_FLASH[packet](args)
    formula = flop_registry.get(packet)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0


def is_product(func: Any) -> bool:
    """Whether an operator is one that FLOPs are counted of: products, convolutions, attention."""
    packet = getattr(func, "_overloadpacket", None)
    return packet in _CPU_FLASH or packet in flop_registry


def in_recompute() -> bool:
    """Whether forward work is being repeated: inside backward, but with gradients recorded."""
    return bool(torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled())


class FlopCounter(TorchDispatchMode):
    """Counts while it is active; recompute apart."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.recompute_flops = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Under a mode that does not say so, Dynamo runs compiled models eagerly, for good."""
        return True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and add its FLOPs."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        flops = flops_of(func, args, kwargs, out)
        self.flops += flops
        if flops and in_recompute():
            self.recompute_flops += flops
        return out


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of one training step.

    Attributes:
        forward_flops: until the loss.
        step_flops: forward and backward.
        recompute_flops: forward work that ran again during backward.
    """

    forward_flops: int
    step_flops: int
    recompute_flops: int


def count_flops(forward: Callable[[], Tensor], backward: Callable[[Tensor], None]) -> Flops:
    """Count one step."""
    with FlopCounter() as counter:
        loss = forward()
        forward_flops = counter.flops
        backward(loss)
    return Flops(forward_flops, counter.flops, counter.recompute_flops)
