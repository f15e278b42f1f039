"""Makes operators on fake CPU tensors save what their CUDA kernels save.

Fake tensors of device ``cuda`` cannot run backward without a GPU, so a simulated accelerator runs
on fake CPU tensors. Where a CPU operator saves something else, it is replaced here:

- dropout: CUDA's fused kernel saves a mask of one byte; CPU saves one in the input's dtype;
- layer norm in half precision: CUDA keeps mean and rstd in fp32; CPU in the input's dtype;
- autocast: CUDA runs softmax, norms and losses in fp32; CPU's list of such operators is shorter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_HALF = (torch.float16, torch.bfloat16)

# torch.amp's documentation, "CUDA Ops that can autocast to float32"; the CPU autocasts fewer.
AUTOCAST_TO_FP32 = frozenset(
    {
        *("binary_cross_entropy_with_logits", "cosine_similarity", "cross_entropy", "cumprod"),
        *("cumsum", "exp", "expm1", "group_norm", "kl_div", "l1_loss", "layer_norm", "log"),
        *("log10", "log1p", "log2", "log_softmax", "mse_loss", "nll_loss", "norm", "normalize"),
        *("pow", "prod", "reciprocal", "rsqrt", "smooth_l1_loss", "softmax", "softmin"),
        *("softplus", "sum"),
    }
)


class CudaFunctions(TorchFunctionMode):
    """Replaces calls of whole functions."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Fused dropout; fp32 where CUDA's autocast has it."""
        kwargs = kwargs or {}
        if func is Tensor.backward:
            return self.backward(*args)
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if torch.is_autocast_enabled("cpu") and name in AUTOCAST_TO_FP32:
            args, kwargs = tree_map(_to_fp32, (args, kwargs))
        return func(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Run backward with this mode on; a recompute must see the same operators as forward.

        ``Tensor.backward`` and ``torch.autograd.backward`` are overridable functions themselves, so
        inside either the mode would be off: the engine is called directly.
        """
        with self:
            torch.autograd.graph._engine_run_backward(
                (loss,),
                (torch.ones_like(loss),),
                False,  # retain_graph
                False,  # create_graph
                inputs=(),
                allow_unreachable=True,
                accumulate_grad=True,
            )


def _dropout(
    input: Tensor,  # noqa: A002 - the name that callers use
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    if not training or p == 0.0:
        return input
    dropped = torch.native_dropout(input, p, train=True)[0]
    return input.copy_(dropped) if inplace else dropped


def _to_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value


class CudaKernels(TorchDispatchMode):
    """Replaces what single operators return."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Layer norm's statistics in fp32."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.native_layer_norm.default and out[0].dtype in _HALF:
            output, mean, rstd = out
            return (
                output,
                mean.new_empty(mean.shape, dtype=torch.float32),
                rstd.new_empty(rstd.shape, dtype=torch.float32),
            )
        return out


@contextlib.contextmanager
def cuda() -> Iterator[None]:
    """Both."""
    with CudaKernels(), CudaFunctions():  # type: ignore[no-untyped-call]
        yield
