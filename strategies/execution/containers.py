"""What holds blocks: lists, attributes, and the parts of what cannot be called itself."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Self

from torch import nn

LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
PARTS = ".*"
"""Ends a path that means the parts of each member, not the members."""
_HALVES = 2
_NUMBER = re.compile(r"\d+$")


class Beside(nn.Module):
    """A list of blocks that lie elsewhere in the model; whoever holds them runs them."""

    def __init__(self, blocks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._modules = dict(blocks)


class Attributes(Beside):
    """The blocks that a module holds as attributes."""

    @classmethod
    def of(cls, module: nn.Module) -> Attributes | None:
        """All its blocks, in the order in which they were made; if a class comes twice.

        As the levels of a handwritten U-Net, ``inc``, ``down1``, ``down2``, ``up1``, ``up2``; each
        may be a ``Sequential``, where there are more than the two halves of a VGG.
        """
        if isinstance(module, LISTS):
            return None
        members = dict(module.named_children())
        stacks = [m for m in members.values() if isinstance(m, nn.Sequential) and is_filled(m)]
        own = [m for m in members.values() if not isinstance(m, LISTS) and is_block(m)]
        known = {*own, *(stacks if len(stacks) > _HALVES else ())}
        blocks = {name: member for name, member in members.items() if member in known}
        return cls(blocks) if len(set(map(type, blocks.values()))) < len(blocks) else None


class Alone(Beside):
    """One block that no list holds: a model may run it many times."""

    @classmethod
    def of(cls, module: nn.Module) -> Self | None:
        """Of what is a block."""
        return cls({"": module}) if is_block(module) else None


class Parts(Beside):
    """The blocks that the members of a list hold, which are no blocks: the model calls their parts.

    As ``for attention, mlp in self.layers``, or ``block.attention(x)`` on what has no forward.

    Attributes:
        holders: the members.
    """

    holders: tuple[nn.Module, ...] = ()

    @classmethod
    def of(cls, container: nn.Module, *, asked: bool = False) -> Self | None:
        """Those of a list whose members have no forward; if there are two.

        Args:
            container: any module.
            asked: of any members.
        """
        members = {n: each for n, each in container._modules.items() if each is not None}
        closed = isinstance(container, LISTS) and not any(map(has_forward, members.values()))
        if not asked and not closed:
            return None
        found = (_parts(member, f"{name}.") for name, member in members.items())
        blocks = dict(itertools.chain.from_iterable(found))
        parts = cls(blocks)
        parts.holders = tuple(members.values())
        return parts if len(blocks) > 1 else None


def _parts(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module._modules.items():
        if child is not None and not has_forward(child):
            yield from _parts(child, f"{path}{name}.")
        elif child is not None and is_block(child):
            yield f"{path}{name}", child


def keys(container: nn.Module) -> list[str]:
    """Names of the members that are there, and that a recompute can begin with."""
    members = container._modules.items()
    return [key for key, child in members if child is not None and not _is_in_place(child)]


def _is_in_place(module: nn.Module) -> bool:
    """Whether it writes to what it is given, as activations between convolutions (VGG) may."""
    return getattr(module, "inplace", False) is True and not any(True for _ in module.children())


def children(container: nn.Module) -> list[nn.Module]:
    """The members; unlike ``.children()``, one that is there twice (ALBERT's), twice."""
    members = dict(container._modules.items())  # TorchScript's are no mapping
    return [member for key in keys(container) if (member := members[key]) is not None]


def is_filled(container: nn.Module) -> bool:
    """Whether it has two members, and parameters."""
    return len(keys(container)) >= 2 and parameter_count(container) > 0


def parameter_count(module: nn.Module) -> int:
    """How many numbers it learns."""
    return sum(p.numel() for p in module.parameters())


def is_container(module: nn.Module) -> bool:
    """Whether it is a list, or holds blocks as one does, in attributes that are numbered.

    As RegNet's stages in timm, ``b1``, ``b2`` and so on, and nothing else.
    """
    if isinstance(module, (*LISTS, Beside)):
        return True
    names, members = keys(module), children(module)
    stems, kinds = {_NUMBER.sub("", name) for name in names}, set(map(type, members))
    is_numbered = all(map(_NUMBER.search, names)) and not module._parameters
    return is_numbered and len(stems) == len(kinds) == 1 and all(map(is_block, members))


def is_block(module: nn.Module) -> bool:
    """Whether it can be called, and holds two layers with matrices at least.

    Or its library marks it as what can be checkpointed, as transformers does: the convolutions
    with which wav2vec2 listens hold one matrix each, and the largest activations.
    """
    if not has_forward(module):
        return False
    if hasattr(type(module), "gradient_checkpointing"):
        return any(True for _ in module.parameters())
    own = ([p for p in each._parameters.values() if p is not None] for each in module.modules())
    return sum(any(p.dim() > 1 for p in parameters) for parameters in own) >= 2


def has_forward(module: nn.Module) -> bool:
    """Whether it can be called: a list cannot, nor what only holds the parts of a block."""
    own = inspect.getattr_static(type(module), "forward")  # TorchScript's cannot be asked for
    return own is not nn.Module.forward or "forward" in module.__dict__


def blocks_of(container: nn.Module) -> list[nn.Module]:
    """Its members, or their parts."""
    return children(Parts.of(container) or container)


def parts_instead(towers: Iterable[tuple[str, nn.Module]]) -> str:
    """What to do about lists of blocks that did not run, in words, if they have parts."""
    lists = [(path, container) for path, container in towers if isinstance(container, LISTS)]
    paths = [f"{p}{PARTS}" for p, each in lists if Parts.of(each, asked=True) is not None]
    return f" (if the model calls their parts, blocks={','.join(paths)!r})" if paths else ""
