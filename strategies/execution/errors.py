"""What execution refuses."""

from __future__ import annotations


class Unsupported(ValueError):  # noqa: N818 - an outcome that becomes a row, not only an error
    """This strategy cannot run on this model or device; the message says why."""


def writes_arguments(block: object) -> Unsupported:
    """The refusal of a block whose recompute would not find its arguments as they were."""
    return Unsupported(
        f"{type(block).__name__} writes to one of its arguments in place, and a recompute would"
        " find it changed; write out of place (x = x + y, inplace=False), or leave this block out"
    )
