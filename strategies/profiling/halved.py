"""The same step on half of its example."""

from __future__ import annotations

import dataclasses

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from strategies.profiling.step import ExampleStep


@dataclasses.dataclass(frozen=True)
class Halved:
    """A step on fewer rows.

    Attributes:
        step: of the first rows.
        rows: how many they are.
        of_rows: how many there were.
    """

    step: ExampleStep
    rows: int
    of_rows: int

    @classmethod
    def of(cls, step: ExampleStep) -> Halved | None:
        """``None`` where the example's tensors do not tell how many rows there are, or one.

        Rows are what all tensors have as many of along their first dimension; a mask for all of
        them has one there.
        """
        tensors = [leaf for leaf in tree_leaves(step.example) if isinstance(leaf, Tensor)]
        sizes = {tensor.shape[0] for tensor in tensors if tensor.dim()} - {1}
        if len(sizes) != 1:
            return None
        of_rows = sizes.pop()
        rows = of_rows // 2

        def first(value: object) -> object:
            cut = isinstance(value, Tensor) and value.dim() and value.shape[0] == of_rows
            # A slice alone would hold the whole.
            return value[:rows].clone() if isinstance(value, Tensor) and cut else value

        example = tree_map(first, step.example)
        smaller = dataclasses.replace(step, example=example, output=[])
        return cls(smaller, rows, of_rows) if rows else None
