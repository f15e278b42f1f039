"""HiGHS (Huangfu and Hall 2018) as all programmes here use it: quiet, and careful with bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import highspy


class _Quiet(highspy.Highs):
    """The solver without its banner on stdout, which comes with its callbacks."""

    def __init__(self) -> None:
        super(highspy.Highs, self).__init__()
        self.setOptionValue("output_flag", False)


def new_model(**options: Any) -> Any:
    """An empty model.

    Args:
        options: of HiGHS, as ``mip_rel_gap=0.0``.
    """
    model: Any = _Quiet()
    # All models of a process share its threads: another number than the first is refused.
    model.setOptionValue("threads", 1)
    model.setOptionValue("small_matrix_value", 1e-12)  # else single bytes are dropped
    for name, value in options.items():
        model.setOptionValue(name, value)
    return model


def total(terms: Iterable[Any]) -> Any:
    """As ``sum``, fast for expressions."""
    addends: Any = [0.0, *terms]
    return highspy.Highs.qsum(addends)


def bound(model: Any) -> float:
    """No solution costs less; infinite: there is none. Also where the search was cut short."""
    infeasible = highspy.HighsModelStatus.kInfeasible
    known = model.getModelStatus() != infeasible
    return float(model.getInfo().mip_dual_bound) if known else math.inf


def is_feasible(model: Any) -> bool:
    """Whether a solution was found."""
    status = model.getInfo().primal_solution_status
    return bool(status == highspy.SolutionStatus.kSolutionStatusFeasible)
