"""Whether what runs is recorded for a backward that can run it again."""

from __future__ import annotations

import torch


def is_recorded() -> bool:
    """Whether autograd records it, and hooks see what is saved."""
    if not torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling():
        return not is_exported()
    return not is_transformed()


def is_transformed() -> bool:
    """Whether it runs under a transform of functions, or is traced.

    Hooks see nothing under ``torch.func.grad``, ``vmap`` and ``jvp``, and what ``torch.jit.trace``
    writes down runs without them: that runs as it is. No compiler can trace this question.
    """
    return torch._C._is_tracing() or torch._C._functorch.peek_interpreter_stack() is not None


def is_exported() -> bool:
    """Whether a graph is made of it that will run without this package (``torch.export``).

    The flag itself: PyTorch 2.9 traces ``torch.compiler.is_exporting()`` as true in every compiled
    model, where checkpoints would then be left out in silence.
    """
    return bool(torch.compiler._is_exporting_flag)
