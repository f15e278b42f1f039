"""PyTorch's own compiler budget: ``torch.compile`` with ``activation_memory_budget``."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_in_any_mode_without_ignore_compile_internals

from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.execution.errors import Unsupported
from strategies.execution.undo import Undo, replace_forward

INDUCTOR, AOT_EAGER = "inductor", "aot_eager_decomp_partition"
BACKENDS = (INDUCTOR, AOT_EAGER)

_BUG = "https://github.com/pytorch/pytorch/issues/190758"
_NEVER = 1 << 30
_UNWATCHED = "this PyTorch has no joint_custom_pass, to find wrong gradients by; use a newer one"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryBudget(Strategy):
    """Let PyTorch's compiler choose, operator by operator, what to recompute.

    AOTAutograd traces forward and backward into one graph and cuts it in two; the partitioner
    solves a knapsack of FLOPs against bytes for what crosses the cut
    (``torch._functorch.config.activation_memory_budget``; He and Yu, "Transcending runtime-memory
    tradeoffs in checkpointing by being fusion aware", MLSys 2023). The budget is of tensors that
    cross the cut, as the compiler sizes them, not of the peak of a step. It is compared here as it
    is, whatever it does.

    The whole model is compiled, as a user of this knob does: a cut of each block alone would have
    to save every boundary, and the knapsack could not trade one block against another. Where
    Python code breaks the graph, each part gets the budget for itself. Without gradients the model
    runs as it is, for there is nothing to save.

    Kernels are decomposed and fused, so gradients and running statistics equal those of ``none``
    closely, not bitwise. Random numbers are those of eager mode, which keeps Inductor from fusing
    dropout; below a fraction of 1 PyTorch may draw them anew in backward, for another mask than
    forward used and a wrong gradient (pytorch/pytorch#190758), so that a step which draws any is
    refused. The graph can be run backward once, and not twice differentiated.

    Attributes:
        fraction: of what the compiler would save by itself, from 0 (inputs of the graph alone) to
            1 (no budget).
        backend: ``inductor`` makes kernels, and on a CPU needs a C++ compiler;
            ``aot_eager_decomp_partition`` runs the operators of the same two graphs one by one.
    """

    compiled: ClassVar[bool] = True
    shown: ClassVar[tuple[str, ...]] = ("fraction",)

    fraction: float = 0.5
    backend: str = INDUCTOR

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"memory_budget: fraction must be from 0 to 1, not {self.fraction}")
        if self.backend not in BACKENDS:
            valid = ", ".join(BACKENDS)
            raise ValueError(f"memory_budget: backend must be one of {valid}, not {self.backend!r}")

    @property
    def exact(self) -> bool:
        """Not bitwise: decomposed and fused kernels round in another order."""
        return False

    @property
    def counted(self) -> bool:
        """Inductor's own kernels do not pass the dispatcher; operators one by one do."""
        return self.backend != INDUCTOR

    def unsupported(self, model: nn.Module, device: torch.device) -> str | None:
        """Simulated models, partitioners that cannot be watched, Inductor without a compiler."""
        if any(isinstance(parameter, FakeTensor) for parameter in model.parameters()):
            return "what torch.compile makes of a model is not simulated; measure it on a device"
        if not _can_be_watched():
            return _UNWATCHED
        if self.backend != INDUCTOR:
            return None
        missing = _missing_compiler(device)
        return missing and f"{missing}; install it, or use backend={AOT_EAGER}"

    def notes(self, chain: Chain) -> Sequence[str]:  # noqa: ARG002
        """What is not in a record, and why."""
        compiled = (
            "compiled as a whole: the compiler recomputes operators, not blocks, so there is no"
            " plan to print or predict, and no block is entered one by one"
        )
        uncounted = "FLOPs inside Inductor's kernels cannot be counted"
        return (compiled,) if self.counted else (compiled, uncounted)

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:  # noqa: ARG002
        """Compile the model's forward, when it is first called."""
        return [replace_forward(model, _Compiled(model, _Backend(self.fraction, self.backend)))]

    @classmethod
    def grid(cls) -> Sequence[Strategy]:
        """No budget, half, a fifth, and nothing but inputs; each is a compilation."""
        return tuple(cls(fraction=fraction) for fraction in (1.0, 0.5, 0.2, 0.0))


def _can_be_watched() -> bool:
    """Whether the partitioner shows its graph (PyTorch 2.9 does not) before it is cut."""
    from torch._functorch import config  # noqa: PLC0415

    return hasattr(config, "joint_custom_pass")


def _missing_compiler(device: torch.device) -> str | None:
    """What Inductor lacks on ``device``, or ``None``. Imported here: Inductor takes a second."""
    if device.type != "cpu":
        from torch.utils._triton import has_triton  # noqa: PLC0415

        return None if has_triton() else f"Inductor needs Triton on {device.type}"
    from torch._inductor.cpp_builder import get_cpp_compiler  # noqa: PLC0415
    from torch._inductor.exc import InvalidCxxCompiler  # noqa: PLC0415

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "Inductor needs a C++ compiler on a CPU, and there is none"
    return None


@dataclasses.dataclass(frozen=True)
class _Backend:
    """Dynamo's backend: compiles a graph under the budget, which no other compilation sees.

    Dynamo keeps compiled code by what it was traced from and by its backend, compared by value:
    equal budgets share it, so a model that is put under its budget again is not compiled again, and
    other budgets never do.
    """

    fraction: float
    name: str

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """Compile ``graph``; the cut is made here, also of a backward that is lowered later."""
        from torch._dynamo.backends.registry import lookup_backend  # noqa: PLC0415
        from torch._functorch import config as functorch  # noqa: PLC0415
        from torch._inductor import config as inductor  # noqa: PLC0415

        budget = {
            "activation_memory_budget": self.fraction,
            "joint_custom_pass": self.checked,
            "enable_autograd_cache": False,  # a graph from the disk would not be checked
        }
        with functorch.patch(budget), inductor.patch(fallback_random=True):
            compiled: Callable[..., Any] = lookup_backend(self.name)(graph, inputs)
        return compiled

    def checked(self, joint: fx.GraphModule, inputs: Any) -> fx.GraphModule:  # noqa: ARG002
        """The graph of forward and backward, if its gradient will be right.

        Raises:
            Unsupported: it draws random numbers that the partitioner may draw anew.
        """
        operator = next((str(n.target) for n in joint.graph.nodes if _is_random(n)), None)
        if operator and self.fraction < 1:
            raise Unsupported(
                f"memory_budget: the model draws random numbers ({operator}), and below fraction=1"
                f" PyTorch may draw others in backward, for a wrong gradient ({_BUG})"
            )
        return joint


def _is_random(node: fx.Node) -> bool:
    """Whether it draws; attention kernels are tagged even where their dropout is 0."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    return bool(_argument(node, "dropout_p") != 0)


def _argument(node: fx.Node, name: str) -> Any:
    """What an operator is called with, or ``None``."""
    target: Any = node.target
    for position, argument in enumerate(target._schema.arguments):
        if argument.name == name:
            values = node.args[position : position + 1] or (node.kwargs.get(name),)
            return argument.default_value if values[0] is None else values[0]
    return None


class _Compiled:
    """Stands in for the model's ``forward``.

    What is compiled is the function, not the method, so that a copy of the model runs itself.
    """

    def __init__(self, model: nn.Module, backend: _Backend) -> None:
        self.original: Callable[..., Any] = model.forward
        functools.update_wrapper(self, model.forward, updated=())
        function, self.owner = _unbound(model.forward)
        self.run: Callable[..., Any] = torch.compile(function, backend=backend)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own ``forward``.

        Raises:
            Unsupported: the gradient would be wrong, or the budget without effect.
        """
        if not torch.is_grad_enabled():
            return self.original(*args, **kwargs)
        if is_in_any_mode_without_ignore_compile_internals():
            raise Unsupported(
                "memory_budget: under a TorchDispatchMode that does not ignore_compile_internals"
                " PyTorch would run this model eagerly in silence, now and ever after"
            )
        from torch._dynamo import config  # noqa: PLC0415
        from torch._dynamo.exc import BackendCompilerFailed  # noqa: PLC0415

        # Dynamo counts recompilations by function, whichever model they are of, and at a limit
        # falls back to eager mode in silence.
        limits = {"recompile_limit": _NEVER, "accumulated_recompile_limit": _NEVER}
        try:
            with config.patch(limits):
                return self.run(self.owner, *args, **kwargs)
        except BackendCompilerFailed as error:
            if isinstance(error.inner_exception, Unsupported):
                raise error.inner_exception from None
            raise


def _unbound(forward: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
    """A function, and the first argument that makes it ``forward``."""
    if isinstance(forward, types.MethodType):
        return forward.__func__, forward.__self__
    return _call, forward


def _call(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs)
