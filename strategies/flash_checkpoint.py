"""Flash attention and per-block checkpointing together."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from strategies.contract.layered import Layered
from strategies.execution.chain import Chain
from strategies.execution.stand_in import StandIn
from strategies.execution.undo import Undo

SDPA, EFFICIENT, PACKAGE = "sdpa-flash", "sdpa-efficient", "flash-attn"
_IMPLEMENTATION = "sdpa"
"""What transformers calls PyTorch's."""


def choose_kernel(device: torch.device, dtype: torch.dtype) -> str:
    """``flash-attn`` on CUDA where the package is installed and takes the dtype, else SDPA's.

    Of SDPA's kernels for CUDA the flash one takes half precision alone; fp32 runs the
    memory-efficient one (Rabe and Staats 2021), which keeps no matrix of scores either.
    """
    if device.type != "cuda":
        return SDPA
    half = dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled("cuda")
    installed = importlib.util.find_spec("flash_attn") is not None
    return (PACKAGE if installed else SDPA) if half else EFFICIENT


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlashCheckpoint(Layered):
    """Switch attention to a flash kernel, and checkpoint on top (Dao et al. 2022, 2205.14135).

    Flash attention keeps no N × N matrix; checkpointing drops what else a block keeps. The kernel
    is the flash-attn package's on CUDA if it is installed, otherwise PyTorch's own flash kernel
    behind ``scaled_dot_product_attention``, which exists on CPU too; on CUDA it takes half
    precision alone, and fp32 runs PyTorch's memory-efficient kernel.

    Works on modules with a ``kernel`` attribute (``"math"`` or ``"flash"``) and on models with
    ``set_attn_implementation`` (transformers). Softmax is summed in another order, so gradients
    equal those of math attention closely, not bitwise.

    Attributes:
        over: the strategy laid under it.
    """

    textbook_memory: ClassVar[str | None] = "O(N·d), no N×N matrix"
    textbook_compute: ClassVar[str | None] = "~100 %"

    @property
    def exact(self) -> bool:
        """Not bitwise: another order of summation."""
        return False

    def unsupported(self, model: nn.Module, device: torch.device) -> str | None:
        """Models whose attention cannot be switched, and attention dropout on CPU."""
        cores = _switchable(model)
        if not cores and not hasattr(model, "set_attn_implementation"):
            return "no attention that can be switched: no module has a `kernel` attribute"
        if device.type == "cpu" and any(_drops(core) for core in cores):
            return "PyTorch's CPU flash kernel has no attention dropout; set it to 0"
        return super().unsupported(model, device)

    def attention_kernel(self, model: nn.Module) -> str:
        """The kernel chosen for this model's device and dtype."""
        parameter = next(model.parameters())
        return choose_kernel(parameter.device, parameter.dtype)

    def is_switched(self, model: nn.Module) -> bool:
        """Whether all attention of a model runs the kernel already."""
        if self.attention_kernel(model) == PACKAGE:
            return False
        config = getattr(model, "config", None)
        kernels = {core.kernel for core in _switchable(model)}
        kernels = kernels or {getattr(config, "_attn_implementation", None)}
        return kernels <= {"flash", _IMPLEMENTATION}

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:
        """Switch the kernel of every attention core."""
        undos = list(super().install(model, chain))
        cores = _switchable(model)
        for core in cores:
            undos.append(RestoreKernel(core, core.kernel))
            core.kernel = "flash"
        if not cores:
            undos.append(_switch_transformers(model))
        if self.attention_kernel(model) == PACKAGE:
            undos.append(_WithFlashAttn(model).install())
        return undos


def _switchable(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if getattr(m, "kernel", None) in ("math", "flash")]


def _drops(core: Any) -> bool:
    return bool(core.training and getattr(core, "dropout", 0.0))


def _switch_transformers(model: Any) -> Undo:
    undo = RestoreImplementation(model, model.config._attn_implementation)
    model.set_attn_implementation(_IMPLEMENTATION)
    return undo


@dataclasses.dataclass
class RestoreKernel(Undo):
    """Puts back an attention core's kernel."""

    core: Any
    kernel: str

    def __call__(self) -> None:
        """Put it back."""
        self.core.kernel = self.kernel


@dataclasses.dataclass
class RestoreImplementation(Undo):
    """Puts back a transformers model's attention implementation."""

    model: Any
    implementation: str

    def __call__(self) -> None:
        """Put it back."""
        self.model.set_attn_implementation(self.implementation)


class _FlashAttn(TorchFunctionMode):
    """Sends scaled dot-product attention to the flash-attn package."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Everything else passes."""
        attend = _attend if func is F.scaled_dot_product_attention else func
        return attend(*args, **(kwargs or {}))


def _attend(  # noqa: PLR0917 - the signature is PyTorch's
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **others: Any,
) -> Tensor:
    """What the package can do, [B, H, T, D] as its [B, T, H, D]; PyTorch does the rest.

    It knows no masks and no single precision, and its causal triangle ends at the last key.
    """
    triangle = is_causal and query.shape[-2] != key.shape[-2]
    half = query.dtype in (torch.float16, torch.bfloat16)
    if attn_mask is not None or triangle or not half or query.dim() != 4:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, **others
        )
    from flash_attn import flash_attn_func  # noqa: PLC0415 - optional, and checked before

    out: Tensor = flash_attn_func(
        *(t.transpose(1, 2) for t in (query, key, value)),
        dropout_p=dropout_p,
        softmax_scale=others.get("scale"),
        causal=is_causal,
    )
    return out.transpose(1, 2)


class _WithFlashAttn(StandIn):
    """Runs a model with the flash-attn package."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _FlashAttn():
            return self.original(*args, **kwargs)
