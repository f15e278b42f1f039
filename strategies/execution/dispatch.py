"""Facts about operators, as PyTorch's dispatcher shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from strategies.execution.tensors import fills_memory, tensors_in

_DROPOUT = ("dropout_p", "p")


class Onlooker(TorchDispatchMode):
    """A mode that runs every operator as it is, and looks."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Under a mode that does not say so, Dynamo runs compiled models eagerly, for good."""
        return True


def can_be_kept(func: Any) -> bool:
    """Whether an operator's output is its own, and a later change of it is seen.

    Asked where it runs: it is no view, writes nothing in place, and is not in inference mode, of
    whose tensors nobody counts the changes.
    """
    return not (func.is_view or func._schema.is_mutable or torch.is_inference_mode_enabled())


def is_portable(output: Any) -> bool:
    """Whether what an operator returned can rest elsewhere, and its bytes are those of its memory.

    Plain tensors of one device, each the whole of its memory.
    """
    tensors = tensors_in(output)
    plain = {Tensor, FakeTensor}.issuperset(map(type, tensors)) and all(map(fills_memory, tensors))
    return plain and len({tensor.device for tensor in tensors}) == 1


def is_random(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call draws random numbers; attention without dropout does not."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    names = [argument.name for argument in func._schema.arguments]
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    defaults = {argument.name: argument.default_value for argument in func._schema.arguments}
    return all((defaults | arguments).get(name, 1.0) != 0 for name in _DROPOUT)


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
