"""PyTorch's compiler under a memory budget, for a whole model or for one block."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import is_in_any_mode_without_ignore_compile_internals

from strategies.execution.errors import Unsupported

INDUCTOR, AOT_EAGER = "inductor", "aot_eager_decomp_partition"

_BUG = "https://github.com/pytorch/pytorch/issues/190758"
_NEVER = 1 << 30
_LIMITS = ("recompile_limit", "accumulated_recompile_limit")


def can_be_watched() -> bool:
    """Whether the partitioner shows its graph (PyTorch 2.9 does not) before it is cut."""
    from torch._functorch import config  # noqa: PLC0415

    return hasattr(config, "joint_custom_pass")


def missing_compiler(device: torch.device) -> str | None:
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
class Backend:
    """Dynamo's backend: compiles a graph under the budget, which no other compilation sees.

    Dynamo keeps compiled code by what it was traced from and by its backend, compared by value:
    equal budgets share it, so a model that is put under its budget again is not compiled again, and
    other budgets never do.

    Attributes:
        fraction: of what the compiler would save by itself.
        name: of the backend that compiles under it.
        asker: who asks for it, for the refusal.
        solver: of the knapsack.
    """

    fraction: float
    name: str
    asker: str
    solver: str = "dp"

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """Compile ``graph``; the cut is made here, also of a backward that is lowered later."""
        from torch._dynamo.backends.registry import lookup_backend  # noqa: PLC0415
        from torch._functorch import config as functorch  # noqa: PLC0415
        from torch._inductor import config as inductor  # noqa: PLC0415

        budget = {
            "activation_memory_budget": self.fraction,
            "activation_memory_budget_solver": self.solver,
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
                f"{self.asker}: the model draws random numbers ({operator}), and below"
                f" fraction=1 PyTorch may draw others in backward, for a wrong gradient ({_BUG})"
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


@functools.lru_cache(maxsize=64)
def compiled(function: Callable[..., Any], backend: Backend) -> Callable[..., Any]:
    """``function``, compiled when it is first called; Dynamo keeps what is compiled."""
    wrapped: Callable[..., Any] = torch.compile(function, backend=backend)
    return wrapped


def for_these_shapes() -> AbstractContextManager[Any]:
    """What is compiled meanwhile is compiled for the shapes that it is called with.

    Blocks of one class share what is compiled, and Dynamo would make it one for all their shapes:
    slower, and wrong for strides that follow from a shape (PyTorch 2.13, channels last). Shapes
    that come later are Dynamo's affair again.
    """
    from torch._dynamo import config  # noqa: PLC0415

    patched: AbstractContextManager[Any] = config.patch(automatic_dynamic_shapes=False)
    return patched


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call what is compiled, with as many kinds of arguments as there are.

    Dynamo counts recompilations by function, whichever model they are of, and at a limit falls back
    to eager mode in silence.

    Raises:
        Unsupported: the gradient would be wrong.
    """
    from torch._dynamo.exc import BackendCompilerFailed  # noqa: PLC0415

    try:
        with _unlimited():
            return function(*args, **kwargs)
    except BackendCompilerFailed as error:
        if isinstance(error.inner_exception, Unsupported):
            raise error.inner_exception from None
        raise


@contextlib.contextmanager
def _unlimited() -> Iterator[None]:
    """Dynamo's limits of recompilations lifted.

    Every call of every block enters it: `config.patch` takes as long as a small block.
    """
    from torch._dynamo import config  # noqa: PLC0415

    before = {name: getattr(config, name) for name in _LIMITS}
    try:
        for name in _LIMITS:
            setattr(config, name, _NEVER)
        yield
    finally:
        for name, limit in before.items():
            setattr(config, name, limit)


def unbound(forward: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
    """A function, and the first argument that makes it ``forward``."""
    if isinstance(forward, types.MethodType):
        return forward.__func__, forward.__self__
    return _call, forward


def would_be_ignored() -> bool:
    """Whether PyTorch would run compiled code eagerly in silence, now and ever after."""
    return bool(is_in_any_mode_without_ignore_compile_internals())


def _call(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs)
