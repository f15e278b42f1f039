"""Gradient checkpointing strategies for any PyTorch model.

import strategies

strategies.apply(model, "sqrt")            # in place; parameters and state_dict keys stay
strategies.apply(model, "every_k", k=4)    # with parameters
strategies.undo(model)                     # as it was before

A strategy is one file in this folder; everything else has a folder of its own.
"""

from __future__ import annotations

from strategies.contract.apply import apply, undo
from strategies.contract.budgeted import Budgeted
from strategies.contract.layered import Layered
from strategies.contract.prepared import Applied, Prepared, prepare
from strategies.contract.profiled import profiled
from strategies.contract.registry import available, get
from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain, find_chain
from strategies.execution.errors import Unsupported
from strategies.execution.release import Release, release_gradients
from strategies.schedules import plan
from strategies.schedules.plan import Plan
from strategies.schedules.schedule import Schedule

__all__ = [
    "Applied",
    "Budgeted",
    "Chain",
    "Layered",
    "Plan",
    "Prepared",
    "Release",
    "Schedule",
    "Strategy",
    "Unsupported",
    "apply",
    "available",
    "find_chain",
    "get",
    "plan",
    "prepare",
    "profiled",
    "release_gradients",
    "undo",
]
