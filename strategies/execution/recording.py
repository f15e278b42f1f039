"""Whether what runs is recorded for a backward that can run it again."""

from __future__ import annotations

import torch


def is_recorded() -> bool:
    """Whether autograd records it, and hooks see what is saved.

    They see nothing under a transform of functions (``torch.func.grad``, ``vmap``, ``jvp``): what
    runs there runs as it is.
    """
    if not torch.is_grad_enabled():
        return False
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None
