"""Whether what runs is recorded for a backward that can run it again."""

from __future__ import annotations

import torch


def is_recorded() -> bool:
    """Whether autograd records it, and hooks see what is saved."""
    if not torch.is_grad_enabled():
        return False
    return torch.compiler.is_compiling() or not is_transformed()


def is_transformed() -> bool:
    """Whether it runs under a transform of functions (``torch.func.grad``, ``vmap``, ``jvp``).

    Hooks see nothing there: what runs there runs as it is. No compiler can trace this question.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None
