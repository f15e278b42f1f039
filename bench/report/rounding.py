"""Numbers that survive another CPU: a last bit that differs there changes nothing that is shown.

Stored values are the same everywhere, and so are IEEE sums, products and quotients of them. What
differs is the last bit of logarithms and powers, of numpy's sums, whose order depends on the
vector unit, and of whatever a compiler contracts to a fused multiply-add. Such a value must not sit
where rounding decides, so both functions here move that place to where no simple fraction lies.
"""

from __future__ import annotations

import math

DIGITS = 12  # of sixteen: far above what arithmetic loses, far below what a reader is shown
GOLDEN = (math.sqrt(5) - 1) / 2


def steady(value: float) -> float:
    """``value`` to twelve significant digits.

    A median of 1.125 that comes out as 1.1249999999999998 elsewhere is then the same number, and
    is formatted alike. Ties of *this* rounding lie at a thirteenth digit of 5, where no ratio of
    sizes or of times read from a clock lies but by chance.
    """
    return float(f"{value:.{DIGITS}g}")


def snapped(value: float, decimals: int) -> str:
    """``value`` with at most so many decimals, rounded up from 0.618 of a step instead of 0.5.

    Coordinates of a figure are full of halves, eighths and hundredths, which sit exactly on the
    ties of ordinary rounding. Nothing that is laid out on a page sits at the golden section of a
    hundredth of a point. There is no ``-0``.
    """
    steps = math.ceil(value * 10**decimals - GOLDEN)
    text = f"{steps / 10**decimals:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text
