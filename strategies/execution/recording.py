"""Whether what runs is recorded for a backward that can run it again."""

from __future__ import annotations

import torch


def is_recorded(*, compiling: bool) -> bool:
    """Whether autograd records it, and hooks see what is saved.

    They see nothing under a transform of functions (``torch.func.grad``, ``vmap``, ``jvp``): what
    runs there runs as it is.

    Args:
        compiling: whether a compiler traces it, in which nobody can look for such transforms.
    """
    if not torch.is_grad_enabled():
        return False
    return compiling or torch._C._functorch.peek_interpreter_stack() is None
