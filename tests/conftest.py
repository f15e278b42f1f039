"""Fixtures for strategies."""

from __future__ import annotations

import pytest
from hypothesis import settings
from torch.utils import checkpoint as torch_checkpoint

from strategies.execution import checkpoint as checkpoint_module

# Examples have no time limit: a slow machine is no failure.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


@pytest.fixture
def no_checkpoint(monkeypatch):
    """Fails the test if anything is checkpointed."""

    def fail(*_, **__):
        pytest.fail("a checkpoint was made where none belongs")

    monkeypatch.setattr(checkpoint_module, "checkpoint", fail)


@pytest.fixture
def checkpoints(monkeypatch):
    """Counts the checkpoints that are made."""
    made = []

    def count(function, *args, **options):
        made.append(function)
        return torch_checkpoint.checkpoint(function, *args, **options)

    monkeypatch.setattr(checkpoint_module, "checkpoint", count)
    return made
