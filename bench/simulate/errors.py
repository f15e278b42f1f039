"""What can be wrong with a model that is to be simulated."""

from __future__ import annotations

from bench.workloads.errors import InputError


class NeedsValueError(InputError):
    """The model branches on a tensor's value, or calls ``.item()``; the message names the line."""
