"""Runs a chain under a plan, by nesting ``torch.utils.checkpoint`` (non-reentrant).

Random state, autocast, early stop and determinism checks are therefore PyTorch's own. Two ways in,
both on the instance, both leaving ``state_dict`` keys and parameter identity alone:

- a group of one block wraps that block's ``forward``;
- groups of several blocks give their container a subclass that iterates over *segments*.

Everything here is an object rather than a closure, so that a model under a strategy can still be
copied with ``copy.deepcopy``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from strategies import plan as plans
from strategies.base import Undo, Unsupported
from strategies.chain import Chain, Container
from strategies.plan import Node, Plan
from strategies.storage import Storage


class FrozenStatistics:
    """Lets modules run again without updating their running statistics a second time.

    Batch norms see copies of their buffers meanwhile. Can be entered again: a graph that is
    retained is recomputed at every backward.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.swapped: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        """Swap copies in."""
        for norm in (m for root in self.modules for m in root.modules()):
            if isinstance(norm, _NormBase) and norm.training:
                for name, buffer in norm._buffers.items():
                    if buffer is not None:
                        self.swapped.append((norm, name, buffer))
                        norm._buffers[name] = buffer.clone()

    def __exit__(self, *exception: object) -> None:
        """Put the buffers back."""
        while self.swapped:
            norm, name, buffer = self.swapped.pop()
            norm._buffers[name] = buffer


class _Contexts:
    """``context_fn`` of a checkpoint: nothing in forward, frozen statistics in recompute."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules

    def __call__(self) -> tuple[Any, Any]:
        return contextlib.nullcontext(), FrozenStatistics(self.modules)


def recompute(
    call: Callable[..., Any],
    modules: Sequence[nn.Module],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run ``call`` under one checkpoint; a plain call where no gradient is recorded."""
    if not torch.is_grad_enabled():
        return call(*args, **kwargs)
    return checkpoint(call, *args, use_reentrant=False, context_fn=_Contexts(modules), **kwargs)


def recompute_stored(
    storage: Storage | None,
    call: Callable[..., Any],
    modules: Sequence[nn.Module],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """`recompute`, with the boundary kept by ``storage`` between forward and backward.

    The boundary is the first argument. Checkpointing saves positional tensors through autograd
    (where a hook can reach them) but refers to keyword tensors directly, so a boundary that comes
    by keyword is made positional.
    """
    if not args and kwargs:
        name = next(iter(kwargs))
        args = (kwargs[name],)
        kwargs = {key: value for key, value in kwargs.items() if key != name}
        call = _ByKeyword(call, name)
    if storage is None or not torch.is_grad_enabled():
        return recompute(call, modules, *args, **kwargs)
    with storage.keep(args[0]):
        return recompute(call, modules, *args, **kwargs)


class _ByKeyword:
    """Calls with the first positional argument given by its keyword."""

    def __init__(self, call: Callable[..., Any], name: str) -> None:
        self.call, self.name = call, name

    def __call__(self, boundary: Any, **kwargs: Any) -> Any:
        return self.call(**{self.name: boundary}, **kwargs)


class CheckpointedForward:
    """Stands in for ``module.forward`` and runs it under one checkpoint."""

    def __init__(self, module: nn.Module, storage: Storage | None) -> None:
        self.module, self.storage = module, storage
        self.original: Callable[..., Any] = module.forward
        functools.update_wrapper(self, module.forward, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        return recompute_stored(self.storage, self.original, [self.module], args, kwargs)


@dataclasses.dataclass
class RestoreAttribute(Undo):
    """Puts back an instance attribute, or its absence."""

    owner: nn.Module
    name: str
    existed: bool
    value: Any

    @classmethod
    def of(cls, owner: nn.Module, name: str) -> RestoreAttribute:
        """Remember ``owner.name`` as it is on the instance now."""
        return cls(owner, name, name in owner.__dict__, owner.__dict__.get(name))

    def __call__(self) -> None:
        """Put it back."""
        if self.existed:
            self.owner.__dict__[self.name] = self.value
        else:
            self.owner.__dict__.pop(self.name, None)


@dataclasses.dataclass
class RestoreClass(Undo):
    """Puts back a container's class."""

    container: nn.Module
    cls: type[nn.Module]

    def __call__(self) -> None:
        """Put it back."""
        self.container.__class__ = self.cls
        self.container.__dict__.pop("ckpt_segments", None)


def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Undo:
    """Give this one instance another ``forward``; returns how to undo it."""
    undo = RestoreAttribute.of(module, "forward")
    module.__dict__["forward"] = forward
    return undo


def checkpoint_module(module: nn.Module, storage: Storage | None = None) -> Undo:
    """Put one module under one checkpoint."""
    return replace_forward(module, CheckpointedForward(module, storage))


class Segment:
    """One entry of a plan, callable like a block; stands in the container's iteration.

    The first output of a block feeds the next, the other arguments repeat. Attributes that a
    model's loop reads from its blocks come from them, if they agree.
    """

    def __init__(
        self, node: Node, blocks: Sequence[nn.Module], storage: Storage | None, *, whole: bool
    ) -> None:
        self.node, self.storage, self.whole = node, storage, whole
        self.blocks = {index: blocks[index] for index in plans.leaves(node)}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As a block."""
        if isinstance(self.node, int):
            return self.blocks[self.node](*args, **kwargs)
        run = functools.partial(self.run, self.node)
        return recompute_stored(self.storage, run, self.modules(self.node), args, kwargs)

    def modules(self, node: Node) -> list[nn.Module]:
        """The blocks below ``node``."""
        return [self.blocks[index] for index in plans.leaves(node)]

    def run(self, group: tuple[Node, ...], *args: Any, **kwargs: Any) -> Any:
        """Run a group's children one after the other, nested groups under a checkpoint each."""
        output: Any = None
        for position, child in enumerate(group):
            if position:
                args, kwargs = self.feed(output, args, kwargs)
            if isinstance(child, int):
                output = self.blocks[child](*args, **kwargs)
            else:
                inner = functools.partial(self.run, child)
                output = recompute(inner, self.modules(child), *args, **kwargs)
        return output

    def feed(
        self, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The next block's arguments: the output first, the rest as before."""
        boundary = output if self.whole else self.only_tensor(output)
        if args:
            return (boundary, *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): boundary}

    def only_tensor(self, output: Any) -> Any:
        """The boundary in a block's output.

        Raises:
            Unsupported: the block returns several tensors; a segment would lose the others.
        """
        if not isinstance(output, (tuple, list)):
            return output
        extra = [part for part in output[1:] if part is not None and part != ()]
        if extra:
            raise Unsupported(
                f"blocks {plans.render((self.node,))} cannot share a recompute group: each returns"
                f" {len(output)} values and the model reads those of every block; use every_layer"
            )
        return output[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "blocks" not in self.__dict__:
            raise AttributeError(name)
        values = [getattr(block, name) for block in self.blocks.values()]
        if any(value is not values[0] and value != values[0] for value in values[1:]):
            raise Unsupported(
                f"blocks {plans.render((self.node,))} cannot share a recompute group: the model"
                f" reads their attribute {name!r}, which differs from block to block"
            )
        return values[0]


class SegmentedList:
    """Mixed into a container's class: iteration yields segments instead of blocks.

    ``_modules`` stays as it is, so parameters, ``state_dict`` and hooks do too.
    """

    ckpt_segments: list[Segment]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.ckpt_segments)

    def __len__(self) -> int:
        return len(self.ckpt_segments)

    def __getitem__(self, key: int | slice) -> Any:
        """A segment by position, or the whole list by a slice that covers it.

        Raises:
            Unsupported: a slice that cuts the chain.
        """
        if not isinstance(key, slice):
            return self.ckpt_segments[key]
        blocks = sum(len(segment.blocks) for segment in self.ckpt_segments)
        if key.indices(blocks) == (0, blocks, 1):
            return list(self.ckpt_segments)
        raise Unsupported(
            f"the model takes a part of its blocks, {key}; only a plan of single blocks can follow"
        )


def _segmented(cls: type[nn.Module]) -> type[nn.Module]:
    return cast("type[nn.Module]", type(f"Segmented{cls.__name__}", (SegmentedList, cls), {}))


def install(chain: Chain, plan: Plan, storage: Storage | None = None) -> list[Undo]:
    """Make the model that owns ``chain`` run under ``plan``.

    Args:
        chain: the model's blocks.
        plan: see `strategies.plan`; groups across containers are split there.
        storage: how top-level boundaries rest between forward and backward.

    Returns:
        How to undo it, to be run in reverse.
    """
    plans.validate(plan, len(chain))
    plan = plans.split(plan, chain.borders)
    undos: list[Undo] = []
    starts = (0, *chain.borders, len(chain))
    for container, begin, end in zip(chain.containers, starts, starts[1:], strict=False):
        nodes = [node for node in plan if begin <= plans.first(node) < end]
        undos += _install_container(container, nodes, chain.blocks, storage)
    return undos


def _install_container(
    container: Container, nodes: list[Node], blocks: Sequence[nn.Module], storage: Storage | None
) -> list[Undo]:
    groups = [node for node in nodes if not isinstance(node, int)]
    members = [blocks[i] for node in nodes for i in plans.leaves(node)]
    repeated = len({id(block) for block in members}) < len(members)
    if not groups:
        return []
    if repeated or any(group != (plans.first(group),) for group in groups):
        return [_install_segments(container, nodes, blocks, storage)]
    return [checkpoint_module(blocks[plans.first(group)], storage) for group in groups]


def _install_segments(
    container: Container, nodes: list[Node], blocks: Sequence[nn.Module], storage: Storage | None
) -> Undo:
    whole = isinstance(container, nn.Sequential)
    cls: type[nn.Module] = type(container)
    undo = RestoreClass(container, cls)
    object.__setattr__(container, "__class__", _segmented(cls))
    segments = [Segment(node, blocks, storage, whole=whole) for node in nodes]
    container.__dict__["ckpt_segments"] = segments
    return undo
