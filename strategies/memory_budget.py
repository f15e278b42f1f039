"""PyTorch's own compiler budget: ``torch.compile`` with ``activation_memory_budget``."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from strategies.contract.strategy import Strategy
from strategies.execution import compiler
from strategies.execution.chain import Chain
from strategies.execution.compiler import AOT_EAGER, INDUCTOR, Backend
from strategies.execution.errors import Unsupported
from strategies.execution.undo import Undo, replace_forward

BACKENDS = (INDUCTOR, AOT_EAGER)
SOLVERS = ("dp", "greedy", "ilp", "dp_knapsack_sliding_hirschberg")
"""Of ``activation_memory_budget_solver``, PyTorch's default first."""

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
        solver: of the knapsack: ``dp`` counts bytes in steps, ``greedy`` takes what saves most a
            FLOP, ``ilp`` is exact (and needs scipy), ``dp_knapsack_sliding_hirschberg`` is ``dp``
            in less memory.
    """

    compiled: ClassVar[bool] = True
    opaque: ClassVar[bool] = True
    shown: ClassVar[tuple[str, ...]] = ("fraction",)

    fraction: float = 0.5
    backend: str = INDUCTOR
    solver: str = SOLVERS[0]

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"memory_budget: fraction must be from 0 to 1, not {self.fraction}")
        for name, valid in (("backend", BACKENDS), ("solver", SOLVERS)):
            value = getattr(self, name)
            if value not in valid:
                listed = ", ".join(valid)
                raise ValueError(f"memory_budget: {name} must be one of {listed}, not {value!r}")

    @property
    def exact(self) -> bool:
        """Not bitwise: decomposed and fused kernels round in another order."""
        return False

    @property
    def peer(self) -> str:
        """It is PyTorch's."""
        return f"torch {torch.__version__}"

    @property
    def counted(self) -> bool:
        """Inductor's own kernels do not pass the dispatcher; operators one by one do."""
        return self.backend != INDUCTOR

    def unsupported(self, model: nn.Module, device: torch.device) -> str | None:
        """Simulated models, partitioners that cannot be watched, Inductor without a compiler."""
        if any(isinstance(parameter, FakeTensor) for parameter in model.parameters()):
            return "what torch.compile makes of a model is not simulated; measure it on a device"
        if not compiler.can_be_watched():
            return _UNWATCHED
        if self.solver == "ilp" and importlib.util.find_spec("scipy") is None:
            return "solver=ilp needs scipy, which is not installed"
        if self.backend != INDUCTOR:
            return None
        missing = compiler.missing_compiler(device)
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
        backend = Backend(self.fraction, self.backend, self.name(), self.solver)
        return [replace_forward(model, _Compiled(model, backend))]

    @classmethod
    def grid(cls) -> Sequence[Strategy]:
        """No budget, half, a fifth, and nothing but inputs; each is a compilation."""
        return tuple(cls(fraction=fraction) for fraction in (1.0, 0.5, 0.2, 0.0))


class _Compiled:
    """Stands in for the model's ``forward``.

    What is compiled is the function, not the method, so that a copy of the model runs itself.
    """

    def __init__(self, model: nn.Module, backend: Backend) -> None:
        self.original: Callable[..., Any] = model.forward
        functools.update_wrapper(self, model.forward, updated=())
        function, self.owner = compiler.unbound(model.forward)
        self.run = compiler.compiled(function, backend)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own ``forward``.

        Raises:
            Unsupported: the gradient would be wrong, or the budget without effect.
        """
        if not torch.is_grad_enabled():
            return self.original(*args, **kwargs)
        if compiler.would_be_ignored():
            raise Unsupported(
                "memory_budget: under a TorchDispatchMode that does not ignore_compile_internals"
                " PyTorch would run this model eagerly in silence, now and ever after"
            )
        return compiler.run(self.run, self.owner, *args, **kwargs)
