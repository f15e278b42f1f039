"""Makes operators on fake CPU tensors save what an accelerator's kernels save.

Fake tensors of device ``cuda`` cannot run backward without a GPU, so a simulated accelerator runs
on fake CPU tensors. Where a CPU operator saves something else, it is replaced here:

- dropout: CUDA's fused kernel saves a mask of one byte; CPU saves one in the input's dtype;
- attention dropout: CUDA's fused kernels save two numbers to draw the mask again; CPU has no fused
  kernel with dropout, and saves weights and mask;
- RMS norm: CUDA has a fused kernel that saves its input and rstd; CPU's is composed of several
  operators, and also saves the normalised input, both in fp32;
- layer norm and batch norm in half precision: CUDA keeps mean and rstd in fp32; CPU in the input's
  dtype;
- autocast: CUDA runs softmax, norms and losses in fp32; CPU's list of such operators is shorter;
- gradients that meet at a tensor: autograd adds them up in place where nobody else holds the first
  (`can_accumulate_inplace`, ``torch/csrc/autograd/input_buffer.cpp``), but never under a dispatch
  mode, which an instrument is. The first is held by another if it is a view, as the gradient of a
  tied output layer's weight is: views keep their base.

Results have the right shape, dtype and size; their values mean nothing.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)
_NORMS = (_aten.native_layer_norm.default, _aten.native_batch_norm.default)

# torch.amp's documentation, "CUDA Ops that can autocast to float32", with what ATen/autocast_mode.h
# adds and what is composed of these alone; the CPU autocasts fewer. Norms by the root mean square
# joined them after PyTorch 2.9.
_casts = torch._C._dispatch_has_kernel_for_dispatch_key
AUTOCAST_TO_FP32 = frozenset(
    {
        *("__rpow__", "acos", "asin", "binary_cross_entropy_with_logits", "cdist", "cosh"),
        *("cosine_embedding_loss", "cosine_similarity", "cross_entropy", "cumprod", "cumsum"),
        *("dist", "erfinv", "exp", "expm1", "group_norm", "hinge_embedding_loss", "huber_loss"),
        *("kl_div", "l1_loss", "layer_norm", "linalg_matrix_norm", "linalg_vector_norm", "log"),
        *("log10", "log1p", "log2", "log_softmax", "logsumexp", "margin_ranking_loss"),
        *("mse_loss", "multi_margin_loss", "multilabel_margin_loss", "native_layer_norm"),
        *("nll_loss", "norm", "normalize", "pdist", "poisson_nll_loss", "pow", "prod"),
        *("reciprocal", "renorm", "rsqrt", "sinh", "smooth_l1_loss"),
        *("soft_margin_loss", "softmax", "softmin", "softplus", "square", "sum", "tan"),
        *("triplet_margin_loss",),
        *(("rms_norm",) if _casts("aten::rms_norm", "AutocastCUDA") else ()),
    }
)


class Kernels(TorchDispatchMode):
    """Replaces what single operators return.

    Attributes:
        fp32_statistics: norms of half precision keep their statistics in fp32 whatever their
            weights are; otherwise only batch norms whose weights are in fp32 do, which is what CPU
            kernels do and fake ones do not.
        without_mean: layer norms stand for RMS norms at the moment.
        fewest_holders: of a gradient that another was added to, so far; as many hold one that is
            nobody else's.
    """

    def __init__(self, *, fp32_statistics: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fp32_statistics = fp32_statistics
        self.without_mean = False
        self.fewest_holders = sys.maxsize

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """A norm's statistics as its kernel keeps them."""
        if func is _aten.native_layer_norm_backward.default and not args[3].numel():
            args = (*args[:3], args[4], *args[4:])  # any mean will do, but it must be one
        if self.fp32_statistics and _accumulates(func) and self._is_unshared(args[0]):
            return args[0].add_(args[1])
        if _overwrites_lists(func) and all(map(_is_valueless, args[0])):
            return None  # nothing would change, and the simulation of it takes long
        out = func(*args, **(kwargs or {}))
        if func not in _NORMS:
            return out
        output, mean, rstd = out
        if output.dtype in _HALF and (self.fp32_statistics or _is_mixed(func, args)):
            mean, rstd = _like(mean, torch.float32), _like(rstd, torch.float32)
        if self.without_mean:
            mean = mean.new_empty(0)
        return output, mean, rstd

    def _is_unshared(self, gradient: Tensor) -> bool:
        """Whether autograd's buffer alone holds it, and may add to it in place."""
        if gradient._is_view():
            return False
        holders = gradient._use_count()  # type: ignore[attr-defined]
        self.fewest_holders = min(self.fewest_holders, holders)
        size_bytes = gradient.numel() * gradient.element_size()
        dense = size_bytes == gradient.untyped_storage().nbytes()
        return dense and holders == self.fewest_holders


@functools.cache
def _overwrites_lists(func: Any) -> bool:
    """Whether an operator does no more than new values into lists of tensors: an update's."""
    return func.name().startswith("aten::_foreach_") and not func._schema.returns


def _is_valueless(tensor: Tensor) -> bool:
    """Whether a tensor is a simulated one, and not a number whose value is known all the same."""
    return isinstance(tensor, FakeTensor) and tensor.constant is None


def _accumulates(func: Any) -> bool:
    """Whether autograd adds up two gradients: a recompute adds, too, but records its graph."""
    in_backward = torch._C._current_graph_task_id() != -1
    return func is _aten.add.Tensor and in_backward and not torch.is_grad_enabled()


def _is_mixed(func: Any, args: tuple[Any, ...]) -> bool:
    weight = args[1]
    batch_norm = func is _aten.native_batch_norm.default
    return batch_norm and weight is not None and weight.dtype == torch.float32


def _like(statistic: Tensor, dtype: torch.dtype) -> Tensor:
    return statistic if statistic.dtype == dtype else torch.empty_like(statistic, dtype=dtype)


class CudaFunctions(TorchFunctionMode):
    """Replaces calls of whole functions.

    Attributes:
        kernels: told when a layer norm stands for an RMS norm.
    """

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Fused dropout, attention and RMS norm; fp32 where CUDA's autocast has it."""
        kwargs = kwargs or {}
        if func is Tensor.backward:
            return self.backward(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if torch.is_autocast_enabled("cpu") and name in AUTOCAST_TO_FP32:
            args, kwargs = tree_map(_to_fp32, (args, kwargs))
        if func in (F.rms_norm, torch.rms_norm):
            return self.rms_norm(*args, **kwargs)
        return _FUSED.get(func, func)(*args, **kwargs)

    def backward(
        self,
        tensor: Tensor,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Sequence[Tensor] | Tensor | None = None,
    ) -> None:
        """Run backward with this mode on; a recompute must see the same operators as forward.

        ``Tensor.backward`` and ``torch.autograd.backward`` are overridable functions themselves, so
        inside either the mode would be off: the engine is called directly.
        """
        given = () if inputs is None else (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        with self:
            torch.autograd.graph._engine_run_backward(
                (tensor,),
                (torch.ones_like(tensor) if gradient is None else gradient,),
                create_graph if retain_graph is None else retain_graph,
                create_graph,
                inputs=given,
                allow_unreachable=True,
                accumulate_grad=True,
            )

    def rms_norm(
        self,
        input: Tensor,  # noqa: A002 - the name that callers use
        normalized_shape: list[int],
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Tensor:
        """A layer norm without mean and bias keeps what a fused RMS norm does."""
        if weight is not None and weight.dtype != input.dtype:  # CUDA does not fuse these
            return F.rms_norm(input, normalized_shape, weight, eps)
        self.kernels.without_mean = True
        try:
            return F.layer_norm(input, normalized_shape, weight)
        finally:
            self.kernels.without_mean = False


def _dropout(
    input: Tensor,  # noqa: A002 - the name that callers use
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    if not training or not 0 < p < 1 or inplace:  # CUDA does not fuse these
        return F.dropout(input, p, training, inplace)
    return torch.native_dropout(input, p, train=True)[0]


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    del dropout_p  # a fused kernel keeps no mask
    return F.scaled_dot_product_attention(query, key, value, attn_mask, 0.0, *args, **kwargs)


_FUSED: dict[Callable[..., Any], Callable[..., Any]] = {
    F.dropout: _dropout,
    F.scaled_dot_product_attention: _attention,
}


def _to_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value


@contextlib.contextmanager
def cuda() -> Iterator[None]:
    """As CUDA's kernels."""
    with Kernels(fp32_statistics=True) as kernels, CudaFunctions(kernels):
        yield


def cpu() -> contextlib.AbstractContextManager[object]:
    """As this CPU's kernels, where fake ones differ from them."""
    return Kernels(fp32_statistics=False)
