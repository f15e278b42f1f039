"""The one error of a kept tensor that someone wrote to."""

from __future__ import annotations


def written_in_place(what: str) -> RuntimeError:
    """PyTorch's own sentence, and which tensor it is about."""
    return RuntimeError(
        "one of the variables needed for gradient computation has been modified by an inplace"
        f" operation: {what}"
    )
