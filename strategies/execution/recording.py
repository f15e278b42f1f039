"""Whether what runs is recorded for a backward that can run it again."""

from __future__ import annotations

import torch


def is_recorded() -> bool:
    """Whether autograd records it, and hooks see what is saved.

    They see nothing under a transform of functions (``torch.func.grad``, ``vmap``, ``jvp``): what
    runs there runs as it is. So does what is written down (``torch.export``, ``torch.jit.trace``).
    """
    if not torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling():
        return not is_exported()
    return not torch._C._is_tracing() and torch._C._functorch.peek_interpreter_stack() is None


def is_exported() -> bool:
    """Whether a graph is made of it that will run without this package."""
    return torch.compiler.is_exporting()
