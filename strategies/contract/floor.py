"""How far the gradient of a lossy strategy may be from the true one before it counts as wrong."""

from __future__ import annotations

import dataclasses
import math

AMPLIFICATION = 4.0
"""How much more a block may do than its one kink; seen, over eleven models, are 0.1 to 2.8."""
LEAST_COSINE = 0.05
"""Where nothing follows from the relative error. A gradient of zero, or of another model, has none
worth the name: two random directions among a million have 0.001."""


@dataclasses.dataclass(frozen=True)
class Floor:
    """What a lossy strategy promises of its gradient, all parameters taken as one vector.

    Attributes:
        max_rel_err: largest ‖g − g₀‖ / ‖g₀‖.
        min_cosine: smallest cosine of g and g₀.
    """

    max_rel_err: float
    min_cosine: float

    @classmethod
    def of_stored(cls, relative_error: float, boundaries: int) -> Floor:
        """Of a strategy that recomputes from ``boundaries`` tensors which came back changed.

        Where a block is smooth, a relative change ε of its input changes its gradient by about ε.
        Where it has kinks (ReLU, a maximum), a share of about ε of its units is on the other side
        of theirs, and each such unit's gradient is wholly another: the squared error is ε, not ε².
        Errors of L boundaries are independent, so their squares add up to L ε, which is the larger
        of the two; `AMPLIFICATION` √(L ε) is allowed.

        A relative error e below 1 bounds the cosine: √(1 − e²) at least. Above, nothing follows,
        and `LEAST_COSINE` is asked for.
        """
        error = AMPLIFICATION * math.sqrt(boundaries * relative_error)
        cosine = math.sqrt(max(0.0, 1 - error**2))
        return cls(max_rel_err=error, min_cosine=max(LEAST_COSINE, cosine))
