"""Several blocks under one checkpoint: stand-ins in their places, the last of which runs all.

Objects rather than closures, so that a model under a strategy can still be copied.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from strategies.execution.chain import Container
from strategies.execution.checkpoint import (
    Arguments,
    recompute,
    recompute_stored,
)
from strategies.execution.errors import Unsupported
from strategies.execution.undo import RestoreClass, Undo
from strategies.schedules import plan as plans
from strategies.schedules.plan import Node
from strategies.storage import Storage


class Segment:
    """A recompute group of a plan, in the place of its blocks in the container.

    The model calls one `Member` for each block. All but the last only hand on what they were given;
    the last runs the group. A model that does more between two blocks than to pass the output of
    one to the next is refused rather than run wrongly.
    """

    def __init__(
        self,
        group: tuple[Node, ...],
        blocks: Sequence[nn.Module],
        storage: Storage | None,
        *,
        whole: bool,
    ) -> None:
        self.group, self.storage, self.whole = group, storage, whole
        self.blocks = {index: blocks[index] for index in plans.leaves(group)}
        self.members = [Member(self, index) for index in self.blocks]

    def call(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model calls block ``index``."""
        block = self.blocks[index]
        if not torch.is_grad_enabled():
            return block(*args, **kwargs)
        given = Arguments.of(block.forward, args, kwargs)
        position = list(self.blocks).index(index)
        before = self.continued(index, given) if position else None
        if before is not None:
            given = before.given
        indexed = None if before is None else before.indexed
        if position + 1 < len(self.blocks):
            return Unfinished(self, position + 1, given, earlier=indexed)
        return self.run_all(given, indexed=bool(indexed))

    def continued(self, index: int, given: Arguments) -> Unfinished:
        """What the block before ``index`` handed on, if the model passed it on unchanged.

        Raises:
            Unsupported: it did not, or it gives each block other arguments.
        """
        before = given.args[0] if given.args else None
        if not isinstance(before, Unfinished) or list(self.blocks)[before.position] != index:
            raise self.refusal("does not pass the output of one straight to the next")
        if before.earlier is not None and before.earlier != before.indexed:
            raise self.refusal("takes a part of what some of them return")
        if not _same((before.given.args[1:], before.given.kwargs), (given.args[1:], given.kwargs)):
            raise self.refusal("calls each with other arguments")
        return before

    def run_all(self, given: Arguments, *, indexed: bool) -> Any:
        """Run the group under one checkpoint."""
        run = functools.partial(self.run, self.group, given.keyword, indexed)
        return recompute_stored(self.storage, run, self.modules(self.group), given)

    def modules(self, node: Node) -> list[nn.Module]:
        """The blocks below ``node``."""
        return [self.blocks[index] for index in plans.leaves(node)]

    def run(
        self,
        group: tuple[Node, ...],
        keyword: str | None,
        indexed: bool,
        boundary: Any,
        /,
        *others: Any,
        **kwargs: Any,
    ) -> Any:
        """Run a group's children one after the other, nested groups under a checkpoint each."""
        output: Any = None
        for position, child in enumerate(group):
            if position:
                boundary = self.hand_on(output, indexed=indexed)
            if isinstance(child, int):
                call = Arguments((), {}, keyword).bind(self.blocks[child])
                output = call(boundary, *others, **kwargs)
            else:
                inner = functools.partial(self.run, child, keyword, indexed)
                output = recompute(inner, self.modules(child), (boundary, *others), kwargs)
        return output

    def hand_on(self, output: Any, *, indexed: bool) -> Any:
        """What the model passes from one block to the next: ``output``, or its first value.

        Raises:
            Unsupported: the model treats a tensor as a tuple, or a tuple as a tensor.
        """
        several = isinstance(output, (tuple, list))
        if indexed and not several:
            raise self.refusal("takes a part of what each returns")
        if several and not indexed and not self.whole:
            raise self.refusal("gets several values from each and does not take the first alone")
        return output[0] if indexed else output

    def refusal(self, doing: str) -> Unsupported:
        """That the model cannot run these blocks as one group, and why."""
        return Unsupported(
            f"blocks {plans.render((self.group,))} cannot share a recompute group, for the model"
            f" {doing}; use every_layer"
        )


class Member:
    """Stands for one block of a `Segment`; its attributes are the block's."""

    def __init__(self, segment: Segment, index: int) -> None:
        self.segment, self.index = segment, index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the block."""
        return self.segment.call(self.index, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "segment" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.segment.blocks[self.index], name)

    def __repr__(self) -> str:
        return repr(self.segment.blocks[self.index])


class Unfinished:
    """What a block hands on while its group has not run: good for the next block alone."""

    def __init__(
        self,
        segment: Segment,
        position: int,
        given: Arguments,
        *,
        indexed: bool = False,
        earlier: bool | None = None,
    ) -> None:
        self.segment, self.position, self.given = segment, position, given
        self.indexed, self.earlier = indexed, earlier

    def __getitem__(self, key: Any) -> Unfinished:
        """The first value, for models that write ``x = block(x)[0]``."""
        if key != 0 or self.indexed:
            raise self.segment.refusal("reads more than the first value that each returns")
        return Unfinished(
            self.segment, self.position, self.given, indexed=True, earlier=self.earlier
        )

    def _refuse(self, *_: Any) -> Any:
        raise self.segment.refusal("computes with the output of one before the next has run")

    __getattr__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _refuse
    __neg__ = __matmul__ = __iter__ = __len__ = __bool__ = _refuse

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """No tensor operation has a meaning here."""
        unfinished = next(v for v in tree_leaves((args, kwargs)) if isinstance(v, cls))
        return unfinished._refuse()


def _same(one: Any, other: Any) -> bool:
    """Whether two blocks are called alike: the same objects, or equal values without gradient."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        alike = (one.dtype, one.device) == (other.dtype, other.device)
        graph = one.requires_grad or other.requires_grad
        return alike and not graph and torch.equal(one, other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


class SegmentedList:
    """Mixed into a container's class: it yields `Member`s where blocks share a group.

    ``_modules`` stays as it is, so parameters, ``state_dict`` and hooks do too.
    """

    ckpt_members: list[Any]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.ckpt_members)

    def __getitem__(self, key: int | slice) -> Any:
        """A block or its member by position, or several in a list.

        Raises:
            Unsupported: a part of a ``Sequential``, which would have to be a module.
        """
        if isinstance(key, slice) and isinstance(self, nn.Sequential):
            raise Unsupported(
                f"the model takes a part of its blocks, {key}, of a Sequential; use every_layer"
            )
        return self.ckpt_members[key]


def _segmented(cls: type[nn.Module]) -> type[nn.Module]:
    return cast("type[nn.Module]", type(f"Segmented{cls.__name__}", (SegmentedList, cls), {}))


def install_segments(
    container: Container,
    nodes: list[Node],
    blocks: Sequence[nn.Module],
    resting: Mapping[int, Storage | None],
) -> Undo:
    """Make ``container`` yield `Member`s of a `Segment` for every group among ``nodes``.

    Args:
        container: whose class changes until this is undone.
        nodes: of the plan, those of this container.
        blocks: all of the chain's.
        resting: how a group's boundary rests, by its first block.
    """
    whole = isinstance(container, nn.Sequential)
    members: list[Any] = []
    for node in nodes:
        if isinstance(node, int):
            members.append(blocks[node])
        else:
            storage = resting.get(plans.first(node))
            members += Segment(node, blocks, storage, whole=whole).members
    cls: type[nn.Module] = type(container)
    object.__setattr__(container, "__class__", _segmented(cls))
    container.__dict__["ckpt_members"] = members
    return RestoreClass(container, cls)
