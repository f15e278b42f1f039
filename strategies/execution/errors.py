"""What execution refuses."""

from __future__ import annotations


class Unsupported(ValueError):  # noqa: N818 - an outcome that becomes a row, not only an error
    """This strategy cannot run on this model or device; the message says why."""


INSTEAD = "a strategy that needs no profile, such as every_layer or sqrt, runs there"
"""What to do with a model whose step is no chain of forwards, and backwards after them."""


class RunsBackward(Unsupported):
    """A forward that runs backward itself, where it was watched with nothing kept for that."""

    def __init__(self) -> None:
        super().__init__(
            "the model or its loss runs backward within forward (torch.autograd.grad), and no chain"
            f" of blocks tells what that costs; {INSTEAD}"
        )


def writes_arguments(block: object) -> Unsupported:
    """The refusal of a block whose recompute would not find its arguments as they were."""
    return Unsupported(
        f"{type(block).__name__} writes to one of its arguments in place, and a recompute would"
        " find it changed; write out of place (x = x + y, inplace=False), or leave this block out"
    )


def in_a_line(error: Exception) -> str:
    """What it says first, up to a line that announces no other; its class, if it says nothing."""
    lines = list(filter(None, map(str.strip, str(error).splitlines())))
    end = next((i for i, line in enumerate(lines, start=1) if not line.endswith(":")), len(lines))
    return " ".join(lines[:end]) or type(error).__name__
