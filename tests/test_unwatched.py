"""A PyTorch whose partitioner shows its graph to no one could hide a wrong gradient."""

import pytest
from models import CASES

import strategies
from strategies import Unsupported


def test_a_partitioner_that_cannot_be_watched_is_refused(monkeypatch):
    monkeypatch.setattr("strategies.execution.compiler.can_be_watched", lambda: False)
    spec = "memory_budget(backend=aot_eager_decomp_partition)"
    with pytest.raises(Unsupported, match="no joint_custom_pass"):
        strategies.apply(CASES["loop"].model(), spec)
