"""Gradient checkpointing strategies for any PyTorch model.

import strategies

strategies.apply(model, "sqrt")            # in place; parameters and state_dict keys stay
strategies.apply(model, "every_k", k=4)    # with parameters
strategies.undo(model)                     # as it was before
"""

from __future__ import annotations

from strategies.apply import Applied, apply, profiled, undo
from strategies.base import Layered, Strategy, Unsupported
from strategies.chain import Chain, find_chain
from strategies.plan import Plan
from strategies.registry import available, get

__all__ = [
    "Applied",
    "Chain",
    "Layered",
    "Plan",
    "Strategy",
    "Unsupported",
    "apply",
    "available",
    "find_chain",
    "get",
    "profiled",
    "undo",
]
