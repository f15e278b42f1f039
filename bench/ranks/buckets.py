"""The buckets that DistributedDataParallel sends gradients in, on real tensors and on fake ones.

It makes them anew after its first backward, in the order in which gradients were ready, and keeps
them from then on. On fake tensors torch's own reducer does that, too: what it counts buckets with,
and says to the other ranks, are small tensors of whole numbers, which are let through as real ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.cells.training import TrainingStep
from bench.ranks.communication import kind_of

CATEGORY = "gradient buckets"


def of(step: TrainingStep) -> list[Tensor]:
    """The buckets of a step's model, which a plain step shows; none of another model.

    Args:
        step: before any strategy; it has no gradients afterwards.
    """
    if not isinstance(step.model, DistributedDataParallel):
        return []
    seen = _Reduced()
    for told in (contextlib.nullcontext(), seen):
        with told:
            step.backward(step.forward())
        step.drop_gradients()
        with _Counts():  # type: ignore[no-untyped-call]
            step.model.reducer._rebuild_buckets()
    return seen.tensors


def answer(model: nn.Module) -> None:
    """Let the reduction of fake buckets end, which in a group that is not there has no result."""
    assert isinstance(model, DistributedDataParallel)
    dist._register_comm_hook(  # type: ignore[attr-defined]
        model.reducer, model.process_group, _reduced
    )


def _reduced(group: dist.ProcessGroup, bucket: Any) -> torch.futures.Future[Tensor]:
    dist.all_reduce(bucket.buffer(), group=group)
    answered: torch.futures.Future[Tensor] = torch.futures.Future()
    answered.set_result(bucket.buffer())
    return answered


class _Reduced(TorchDispatchMode):
    """Notes what is summed over ranks while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        if kind_of(func) == "all_reduce":
            self.tensors += args[0]
        return func(*args, **(kwargs or {}))


class _Counts(TorchDispatchMode):
    """Keeps whole numbers real while the reducer counts, whatever else is fake."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        given = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, given)) if isinstance(leaf, Tensor)]
        dtypes = {tensor.dtype for tensor in tensors} | {given.get("dtype", torch.int64)}
        fake = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if fake or any(dtype.is_floating_point for dtype in dtypes):
            return func(*args, **given)
        with unset_fake_temporarily():
            return func(*args, **given)
