"""Who meets `auto` in a contest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import strategies
from bench.run import planning
from strategies.contract.budgeted import Budgeted
from strategies.memory_budget import SOLVERS, MemoryBudget
from strategies.schedules.interpreter import predict

OURS = "auto"
WITH_BUDGET = ("optimal", "selective_ops", "hybrid")
RULES = ("sqrt", "torch_checkpoint", "transformers_checkpoint", "torch_selective_checkpoint")
"""They know no budget: those that happen to need less than it are in the contest."""


def ours(budget_bytes: int, *, compiled: bool = False, disk: bool = False) -> Budgeted:
    """`auto`, with compiled blocks or a disk, or without."""
    options = {"compile": compiled, "disk": disk}
    said = ", ".join(f"{name}=True" for name, value in options.items() if value)
    return planning.budgeted(f"{OURS}({said})", str(budget_bytes))


def eager(chain: strategies.Chain, budget_bytes: int) -> list[strategies.Strategy]:
    """Within a budget: those that keep one, the best `every_k` for it, and the rules."""
    known = [planning.budgeted(name, str(budget_bytes)) for name in WITH_BUDGET]
    return [*known, every_k(chain, budget_bytes), *map(strategies.get, RULES)]


def every_k(chain: strategies.Chain, budget_bytes: int) -> strategies.Strategy:
    """The fastest by the profile whose predicted peak is in the budget, or the leanest."""
    profile = chain.profile
    assert profile is not None
    points = [strategies.get("every_k", k=k) for k in range(2, max(2, len(chain)) + 1)]
    costs = [predict(profile, p.schedule(chain).split(profile.borders)) for p in points]
    within = [cost for cost in costs if cost.peak_bytes <= budget_bytes]
    best = min(within, key=lambda cost: cost.step_s, default=None) or min(
        costs, key=lambda cost: cost.peak_bytes
    )
    return points[costs.index(best)]


def compilers(fractions: Sequence[float]) -> Iterator[MemoryBudget]:
    """PyTorch's compiler under each fraction with each solver, which 0 and 1 do not ask."""
    for fraction in fractions:
        for solver in SOLVERS if 0 < fraction < 1 else SOLVERS[:1]:
            yield MemoryBudget(fraction=fraction, solver=solver)
