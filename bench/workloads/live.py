"""Models that are there already, as workloads: for as long as somebody asks about one.

A model of this process cannot be sent to another one: what is measured is a copy, made here.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeCopyMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from bench.workloads.base import Batch, Workload
from bench.workloads.errors import InputError
from bench.workloads.sources import blame, calls
from bench.workloads.sources.source import SourceWorkload
from bench.workloads.sources.unpacked import unpacked

Loss = Callable[..., Any]
_OBJECTS = frozenset({"original", "example", "function"})
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
            name=next(one for one in _names(name) if one not in _known),
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
        mode, memo = detect_fake_mode(), dict[int, Any]()
        for tensor in (*self.original.parameters(), *self.original.buffers()):
            memo[id(tensor)] = _twin(tensor, fake=mode is not None)
        try:
            # Outside the mode, which knows no real tensors: what is copied becomes one of its own.
            with _disable_current_modes(), FakeCopyMode(mode) if mode else contextlib.nullcontext():
                return copy.deepcopy(self.original, memo)
        except Exception as error:
            what = f"the {type(self.original).__name__} cannot be copied"
            raise InputError(f"{what} ({type(error).__name__}: {error})") from error

    def field_names(self) -> tuple[str, ...]:
        """Those that are plain."""
        return tuple(name for name in super().field_names() if name not in _OBJECTS)

    def default_batch(self) -> Batch:
        """The example, with as many rows as are asked for."""
        rows = rows_of(self.example)
        return tree_map_only(Tensor, lambda t: _with_rows(t.cpu(), rows, self.batch), self.example)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The caller's, or what the output suggests."""
        if self.function is None:
            return super().loss(model, batch)
        with unpacked(batch):
            loss = self.function(calls.call(model, batch))
        return calls.checked_loss(loss, lambda: blame.place_of(self.function) or "the loss")


def _names(name: str) -> Iterator[str]:
    """A name, and others like it: of another model of the class that somebody asks about now."""
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


@torch.no_grad()
def _twin(tensor: Tensor, *, fake: bool) -> Tensor:
    """The same on the CPU, in the default precision where that is another than fp32."""
    default = torch.get_default_dtype()
    half = tensor.is_floating_point() and default is not torch.float32
    dtype = default if half else tensor.dtype
    if fake:
        twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="cpu")
    else:
        twin = tensor.detach().to("cpu", dtype, copy=True)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(twin, requires_grad=tensor.requires_grad)
    return twin


def rows_of(batch: Batch) -> int:
    """How long the first dimension of a batch's first tensor is; 1 where there is none."""
    sizes = [
        leaf.shape[0] for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()
    ]
    return sizes[0] if sizes else 1


def _with_rows(tensor: Tensor, rows: int, wanted: int) -> Tensor:
    if wanted == rows or not tensor.dim() or tensor.shape[0] != rows:
        return tensor
    return tensor[torch.arange(wanted) % rows]
