"""Finds the towers of a model: the lists of its repeated blocks, by structure alone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import nn

from strategies.execution.errors import Unsupported

Tower = tuple[str, nn.Module]

LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
_HALVES = 2
_NUMBER = re.compile(r"\d+$")
_PARALLEL = re.compile(r"expert|branch|head|router|pool|scale", re.IGNORECASE)
"""Names of lists whose members run side by side, within a block."""


def towers(model: nn.Module) -> list[Tower]:
    """Every list of blocks: of encoder and decoder, of all stages, of blocks of several classes.

    Raises:
        Unsupported: there is none.
    """
    lists = _without_stages(list(_block_lists(model)))
    if lists:
        kinds = {type(block) for tower in lists for block in children(tower)}
        return list(_outermost(model, lambda c: kinds.issuperset(map(type, children(c))), lists))
    attributes = list(_attributes(model))
    if attributes:
        return attributes
    layers = [tower for tower in _outermost(model, is_alike) if not _is_table(tower)]
    if layers:
        _, largest = max(layers, key=lambda item: _parameter_count(item[1]))
        kind = type(children(largest)[0])
        return [(path, c) for path, c in layers if type(children(c)[0]) is kind]
    unlike = list(_outermost(model, is_unlike))
    if unlike:
        return unlike
    alone = list(_block_lists(model, least=1))  # ALBERT's only layer, which runs many times
    if alone:
        return alone
    raise Unsupported(
        "no chain of blocks found: the model holds no ModuleList or Sequential of at least two"
        " blocks with parameters, nor blocks of one class in attributes; name it with"
        " blocks='path.to.container'"
    )


class Attributes(nn.Module):
    """A list of the blocks that a module holds as attributes, beside it: it runs them itself."""

    def __init__(self, blocks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._modules = dict(blocks)

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
        own = [m for m in members.values() if not isinstance(m, LISTS) and _is_block(m)]
        known = {*own, *(stacks if len(stacks) > _HALVES else ())}
        blocks = {name: member for name, member in members.items() if member in known}
        return cls(blocks) if len(set(map(type, blocks.values()))) < len(blocks) else None


def _attributes(module: nn.Module, path: str = "") -> Iterator[Tower]:
    """The outermost modules that hold blocks of one class as attributes."""
    blocks = Attributes.of(module)
    if blocks is not None:
        yield path, blocks
        return
    for name, child in module.named_children():
        yield from _attributes(child, f"{path}.{name}" if path else name)


def _is_table(tower: Tower) -> bool:
    return isinstance(tower[1], nn.ModuleDict)


def filled(model: nn.Module) -> list[str]:
    """Paths of the outermost lists of at least two modules."""
    return [path for path, _ in _outermost(model, is_filled)]


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
    return len(keys(container)) >= 2 and _parameter_count(container) > 0


def is_unlike(container: nn.Module) -> bool:
    """Whether it runs its members one after the other, of whatever classes."""
    return isinstance(container, nn.Sequential) and is_filled(container)


def is_alike(container: nn.Module) -> bool:
    """Whether all members are of one class, which is none of lists, and have parameters."""
    members = children(container)
    same_class = len(set(map(type, container.children()))) == 1  # in place or not: VGG's head
    plain = isinstance(members[0], LISTS) if members else True
    return is_filled(container) and same_class and not plain and _parameter_count(members[0]) > 0


def is_container(module: nn.Module) -> bool:
    """Whether it is a list, or holds blocks as one does, in attributes that are numbered.

    As RegNet's stages in timm, ``b1``, ``b2`` and so on, and nothing else.
    """
    if isinstance(module, (*LISTS, Attributes)):
        return True
    names, members = keys(module), children(module)
    stems, kinds = {_NUMBER.sub("", name) for name in names}, set(map(type, members))
    is_numbered = all(map(_NUMBER.search, names)) and not module._parameters
    return is_numbered and len(stems) == len(kinds) == 1 and all(map(_is_block, members))


def _block_lists(module: nn.Module, path: str = "", least: int = 2) -> Iterator[Tower]:
    """The lists of ``least`` blocks or more, those within stages rather than the stages."""
    inside = _inside(module, path, least)
    if _holds_blocks(module, least, path) and not _are_stages(module, inside, least):
        yield path, module
    else:
        yield from itertools.chain(*inside)


def _without_stages(towers: Sequence[Tower]) -> list[nn.Module]:
    """The lists, those within stages that hold a single block rather than the stages.

    Such a stage shows by the others: its block is of a class that is one elsewhere.
    """
    lists = []
    for _, container in towers:
        kinds = {type(block) for _, other in towers for block in children(other)}
        lists += _single(container, kinds - set(map(type, children(container)))) or [container]
    return lists


def _single(container: nn.Module, kinds: set[type]) -> list[nn.Module]:
    """The lists of blocks of these classes within each member; none, if one holds few of them."""
    lists: list[nn.Module] = []
    for member in children(container):
        towers = _outermost(member, lambda c: kinds.issuperset(map(type, children(c))))
        own = [tower for _, tower in towers]
        held = sum(map(_parameter_count, own))
        if isinstance(member, LISTS) or held <= _parameter_count(member) / 2:
            return []
        lists += own
    return lists


def _inside(module: nn.Module, path: str, least: int) -> list[list[Tower]]:
    """The lists of blocks of each member; beside a list of blocks, one block is a list, too."""
    members = {f"{path}.{key}" if path else key: own for key, own in module.named_children()}
    inside = {own: list(_block_lists(member, own, least)) for own, member in members.items()}
    if any(tower is members[own] for own, towers in inside.items() for _, tower in towers):
        for own, member in members.items():
            if not inside[own] and _holds_blocks(member, 1, own):
                inside[own] = [(own, member)]
    return list(inside.values())


def _holds_blocks(container: nn.Module, least: int, path: str) -> bool:
    """Whether it is a list of blocks alone; of a ``Sequential``, of a class that comes twice."""
    members = children(container)
    if not is_container(container) or _PARALLEL.search(path.rpartition(".")[2]):
        return False
    if len(members) < least or not all(map(_is_block, members)):
        return False
    plain = not any(isinstance(member, LISTS) for member in members)
    return isinstance(container, nn.ModuleList) or (plain and _repeats(container, least))


def _repeats(container: nn.Module, least: int = 2) -> bool:
    """Whether it holds more members than classes; or one, where that is enough."""
    members = children(container)
    return len(members) > len(set(map(type, members))) or len(members) == least == 1


def _is_block(module: nn.Module) -> bool:
    """Whether it can be called, and holds two layers with matrices at least.

    Or its library marks it as what can be checkpointed, as transformers does: the convolutions
    with which wav2vec2 listens hold one matrix each, and the largest activations.
    """
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)) and not _has_forward(module):
        return False
    if hasattr(type(module), "gradient_checkpointing"):
        return any(True for _ in module.parameters())
    own = ([p for p in each._parameters.values() if p is not None] for each in module.modules())
    return sum(any(p.dim() > 1 for p in parameters) for parameters in own) >= 2


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _are_stages(container: nn.Module, inside: list[list[Tower]], least: int) -> bool:
    """Whether most members hold lists of blocks, of classes that repeat, with most parameters.

    And little else: MobileBERT's layers hold a list of feed-forward nets beside their attention.
    """
    repeating = [tower for towers in inside for _, tower in towers if _repeats(tower, least)]
    kinds = {type(block) for tower in repeating for block in children(tower)}
    stages = 0
    for member in container.children():
        lists = _outermost(member, lambda c: kinds.issuperset(map(type, children(c))), repeating)
        held = sum(_parameter_count(tower) for _, tower in lists)
        stages += not _has_parts(member) and held > _parameter_count(member) / 2
    return 2 * stages > len(inside)


def _has_parts(member: nn.Module) -> bool:
    """Whether it has two parts, besides its lists, that could be blocks themselves."""
    beside = [child for child in member.children() if not isinstance(child, LISTS)]
    return not is_container(member) and sum(map(_is_block, beside)) >= 2


def _outermost(
    module: nn.Module,
    is_tower: Callable[[nn.Module], bool],
    known: Sequence[nn.Module] = (),
    path: str = "",
) -> Iterator[Tower]:
    """Lists that satisfy ``is_tower``, not looking inside one that does, nor inside known ones."""
    is_known = any(module is tower for tower in known)
    if is_known or (children(module) and is_container(module) and is_tower(module)):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _outermost(child, is_tower, known, f"{path}.{name}" if path else name)


def _parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
