"""Models that are there already, as workloads: for as long as somebody asks about one.

A model of this process cannot be sent to another one: what is measured is a copy, made here.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeCopyMode
from torch.utils._pytree import tree_leaves, tree_map_only

from bench.workloads.base import Batch, Workload
from bench.workloads.errors import InputError
from bench.workloads.sources import calls
from bench.workloads.sources.source import SourceWorkload

Loss = Callable[..., Any]
_numbers = itertools.count(1)
_known: dict[str, Workload] = {}


def known(name: str) -> Workload | None:
    """The workload that somebody asks about under this name."""
    return _known.get(name)


@contextlib.contextmanager
def named(workload: Workload) -> Iterator[str]:
    """Within, `bench.workloads.get` finds the workload under its own name.

    Raises:
        ValueError: another one has that name.
    """
    if workload.name in _known:
        raise ValueError(f"somebody asks about a workload {workload.name!r} already")
    _known[workload.name] = workload
    try:
        yield workload.name
    finally:
        del _known[workload.name]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LiveWorkload(SourceWorkload):
    """A model, and a batch of it.

    Attributes:
        batch: Rows of the batch; other numbers repeat or leave out rows.
    """

    original: nn.Module = dataclasses.field(repr=False)
    example: Any = dataclasses.field(repr=False)
    function: Loss | None = dataclasses.field(repr=False)
    batch: int

    HIDDEN: ClassVar[frozenset[str]] = SourceWorkload.HIDDEN | {"original", "example", "function"}

    @classmethod
    def of(
        cls, model: nn.Module, batch: Batch, loss: Loss | None, blocks: Sequence[str] | str | None
    ) -> LiveWorkload:
        """The model as it is, in training mode.

        Raises:
            ValueError: no batch, or one without tensors.
        """
        if batch is None:
            raise ValueError("a model needs a batch: what it is called with")
        name = type(model).__name__
        example = calls.checked_batch(batch, name)
        rows = rows_of(example)
        return cls(
            name=f"{name}-{next(_numbers)}",
            summary="a model that is there",
            scale="real",
            blocks=blocks if isinstance(blocks, str) else ",".join(blocks or ()),
            original=model,
            example=tree_map_only(Tensor, Tensor.detach, example),
            function=loss,
            batch=rows,
        )

    def make_model(self) -> nn.Module:
        """A copy, on the CPU; fake where tensors are; in the precision that is asked for.

        Raises:
            InputError: the model cannot be copied.
        """
        mode = detect_fake_mode()
        try:
            with FakeCopyMode(mode) if mode else contextlib.nullcontext():
                model = copy.deepcopy(self.original)
        except Exception as error:
            name = type(self.original).__name__
            raise InputError(
                f"the {name} cannot be copied ({type(error).__name__}: {error})"
            ) from error
        dtype = torch.get_default_dtype()
        return model.cpu() if dtype is torch.float32 else model.cpu().to(dtype)

    def default_batch(self) -> Batch:
        """The example, with as many rows as are asked for."""
        rows = rows_of(self.example)
        return tree_map_only(Tensor, lambda t: _with_rows(t.cpu(), rows, self.batch), self.example)

    def default_loss(self, output: Any, batch: Batch) -> Tensor | None:
        """The caller's, or what the output suggests."""
        if self.function is None:
            return super().default_loss(output, batch)
        loss: Tensor = self.function(output)
        return loss


def rows_of(batch: Batch) -> int:
    """How long the first dimension of a batch's first tensor is; 1 where there is none."""
    sizes = [leaf.shape[0] for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
    return sizes[0] if sizes else 1


def _with_rows(tensor: Tensor, rows: int, wanted: int) -> Tensor:
    if wanted == rows or not tensor.dim() or tensor.shape[0] != rows:
        return tensor
    return tensor[torch.arange(wanted) % rows]
