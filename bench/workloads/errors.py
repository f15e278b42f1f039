"""What is wrong with what a user gave, found where it is used."""

from __future__ import annotations


class InputError(ValueError):
    """The user's model, batch or loss is at fault; the message is one sentence that names where."""
