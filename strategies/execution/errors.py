"""What execution refuses."""

from __future__ import annotations


class Unsupported(ValueError):  # noqa: N818 - an outcome that becomes a row, not only an error
    """This strategy cannot run on this model or device; the message says why."""
