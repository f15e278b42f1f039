"""A mixed-integer programme as text: what HiGHS is asked."""

from __future__ import annotations

import itertools
import math
from typing import Any

import highspy


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
    rows = [
        _between(low, _sum(terms), high)
        for low, terms, high in zip(
            problem.row_lower_, _rows(problem), problem.row_upper_, strict=True
        )
    ]
    return [f"least {cost}", *columns, *rows]


def _rows(problem: Any) -> list[list[tuple[int, float]]]:
    """Column and value of each entry; after it was solved, they are kept by columns."""
    matrix = problem.a_matrix_
    by_row = matrix.format_ == highspy.MatrixFormat.kRowwise
    rows: list[list[tuple[int, float]]] = [[] for _ in range(problem.num_row_)]
    for outer, (begin, end) in enumerate(itertools.pairwise(matrix.start_)):
        for inner, value in zip(matrix.index_[begin:end], matrix.value_[begin:end], strict=True):
            row, column = (outer, inner) if by_row else (inner, outer)
            rows[row].append((column, value))
    return rows


def _sum(terms: Any) -> str:
    return " ".join(f"{value:+.12g} x{index}" for index, value in sorted(terms) if value) or "0"


def _between(low: float, what: str, high: float) -> str:
    if low == high:
        return f"{what} = {low:.12g}"
    left = "" if low == -math.inf else f"{low:.12g} <= "
    right = "" if high == math.inf else f" <= {high:.12g}"
    return f"{left}{what}{right}"
