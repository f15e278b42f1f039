"""A mixed-integer programme as text: what HiGHS is asked."""

from __future__ import annotations

import math
from typing import Any


def written(model: Any) -> list[str]:
    """Its objective, its variables and its rows."""
    problem = model.getLp()
    cost = _sum(enumerate(problem.col_cost_))
    columns = [
        f"{_between(low, f'x{number}', high)} {'Z' if 'Integer' in str(kind) else 'R'}"
        for number, (low, high, kind) in enumerate(
            zip(problem.col_lower_, problem.col_upper_, problem.integrality_, strict=True)
        )
    ]
    matrix = problem.a_matrix_
    starts = list(matrix.start_)
    rows = [
        _between(low, _sum(list(zip(matrix.index_, matrix.value_, strict=True))[begin:end]), high)
        for begin, end, low, high in zip(
            starts[:-1], starts[1:], problem.row_lower_, problem.row_upper_, strict=True
        )
    ]
    return [f"least {cost}", *columns, *rows]


def _sum(terms: Any) -> str:
    return " ".join(f"{value:+.12g} x{index}" for index, value in sorted(terms) if value) or "0"


def _between(low: float, what: str, high: float) -> str:
    if low == high:
        return f"{what} = {low:.12g}"
    left = "" if low == -math.inf else f"{low:.12g} <= "
    right = "" if high == math.inf else f" <= {high:.12g}"
    return f"{left}{what}{right}"
