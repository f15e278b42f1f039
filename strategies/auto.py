"""Profile, solve, apply: the strategy for those who do not want to choose one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from strategies.optimal import Optimal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto(Optimal):
    """The fastest plan that is known to fit: ``strategies.apply(model, "auto", budget="8GB", …)``.

    It is `Optimal`, which is never slower than any plan of groups of k blocks that fits.
    """

    @classmethod
    def grid(cls) -> Sequence[Auto]:
        """One budget."""
        return (cls(),)
