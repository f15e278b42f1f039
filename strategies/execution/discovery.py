"""Finds the towers of a model: the lists of its repeated blocks, by structure alone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from strategies.execution.containers import (
    LISTS,
    PARTS,
    Attributes,
    Parts,
    blocks_of,
    children,
    has_forward,
    is_block,
    is_container,
    is_filled,
    parameter_count,
)
from strategies.execution.errors import Unsupported

Tower = tuple[str, nn.Module]

_PARALLEL = re.compile(r"expert|branch|head|router|pool|scale", re.IGNORECASE)
"""Names of lists whose members run side by side, within a block."""


def towers(model: nn.Module) -> list[Tower]:
    """Every list of blocks: of encoder and decoder, of all stages, of blocks of several classes.

    Raises:
        Unsupported: there is none.
    """
    lists = _without_stages(list(_block_lists(model)))
    if lists:
        kinds = {type(block) for tower in lists for block in blocks_of(tower)}
        alike = _outermost(model, lambda c: kinds.issuperset(map(type, children(c))), lists)
        return [opened(*tower) for tower in alike]
    attributes = list(_attributes(model))
    if attributes:
        return attributes
    layers = [tower for tower in _outermost(model, is_alike) if not _is_table(tower)]
    if layers:
        _, largest = max(layers, key=lambda item: parameter_count(item[1]))
        kind = type(children(largest)[0])
        return [(path, c) for path, c in layers if type(children(c)[0]) is kind]
    unlike = list(_outermost(model, is_unlike))
    if unlike:
        return unlike
    alone = list(_block_lists(model, least=1))  # ALBERT's only layer, which runs many times
    if alone:
        return alone
    closed = [repr(path) for path, _ in _outermost(model, _is_closed)]
    remedy = f", or give the members of {', '.join(closed)} a forward" if closed else ""
    single = [name for name, child in model.named_children() if is_block(child)]
    remedy += f"; a block that runs many times with blocks={single[0]!r}" if single else ""
    raise Unsupported(
        "no chain of blocks found: the model holds no ModuleList or Sequential of at least two"
        " blocks with parameters, nor blocks of one class in attributes; name it with"
        f" blocks='path.to.container'{remedy}"
    )


def opened(path: str, container: nn.Module) -> Tower:
    """A tower as it is, or of the parts of its members, if these cannot be called."""
    parts = Parts.of(container)
    return (path, container) if parts is None else (f"{path}{PARTS}", parts)


def holds_lists(module: nn.Module) -> bool:
    """Whether there are lists of blocks inside."""
    return any(True for _ in _block_lists(module))


def _is_closed(container: nn.Module) -> bool:
    """Whether no member can be called."""
    return is_filled(container) and not any(map(has_forward, children(container)))


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


def is_unlike(container: nn.Module) -> bool:
    """Whether it runs its members one after the other, of whatever classes."""
    return isinstance(container, nn.Sequential) and is_filled(container)


def is_alike(container: nn.Module) -> bool:
    """Whether all members are of one class, which is none of lists, and have parameters."""
    members = children(container)
    same_class = len(set(map(type, container.children()))) == 1  # in place or not: VGG's head
    plain = isinstance(members[0], LISTS) if members else True
    return is_filled(container) and same_class and not plain and parameter_count(members[0]) > 0


def _block_lists(module: nn.Module, path: str = "", least: int = 2) -> Iterator[Tower]:
    """The lists of ``least`` blocks or more, those within stages rather than the stages."""
    inside = _inside(module, path, least)
    if _holds_blocks(module, least, path) and not _are_stages(module, inside, least):
        yield path, module
    elif _holds_parts(module, inside, path):
        yield path, module  # to be opened
    else:
        yield from itertools.chain(*inside)


def _holds_parts(container: nn.Module, inside: list[list[Tower]], path: str) -> bool:
    """Whether it is a list of what only holds blocks, and more than in lists of their own."""
    if _is_parallel(path) or Parts.of(container) is None:
        return False
    listed = sum(parameter_count(tower) for towers in inside for _, tower in towers)
    return listed <= parameter_count(container) / 2


def _without_stages(towers: Sequence[Tower]) -> list[nn.Module]:
    """The lists, those within stages that hold a single block rather than the stages.

    Such a stage shows by the others: its block is of a class that is one elsewhere.
    """
    lists = []
    for _, container in towers:
        kinds = {type(block) for _, other in towers for block in blocks_of(other)}
        lists += _single(container, kinds - set(map(type, children(container)))) or [container]
    return lists


def _single(container: nn.Module, kinds: set[type]) -> list[nn.Module]:
    """The lists of blocks of these classes within each member; none, if one holds few of them."""
    lists: list[nn.Module] = []
    for member in children(container):
        towers = _outermost(member, lambda c: kinds.issuperset(map(type, children(c))))
        own = [tower for _, tower in towers]
        held = sum(map(parameter_count, own))
        if isinstance(member, LISTS) or held <= parameter_count(member) / 2:
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
    if not is_container(container) or _is_parallel(path):
        return False
    if len(members) < least or not all(map(is_block, members)):
        return False
    plain = not any(isinstance(member, LISTS) for member in members)
    return isinstance(container, nn.ModuleList) or (plain and _repeats(container, least))


def _is_parallel(path: str) -> bool:
    return _PARALLEL.search(path.rpartition(".")[2]) is not None


def _repeats(container: nn.Module, least: int = 2) -> bool:
    """Whether it holds more members than classes; or one, where that is enough."""
    members = children(container)
    return len(members) > len(set(map(type, members))) or len(members) == least == 1


def _are_stages(container: nn.Module, inside: list[list[Tower]], least: int) -> bool:
    """Whether most members hold lists of blocks, of classes that repeat, with most parameters.

    And little else: MobileBERT's layers hold a list of feed-forward nets beside their attention.
    """
    repeating = [tower for towers in inside for _, tower in towers if _repeats(tower, least)]
    kinds = {type(block) for tower in repeating for block in children(tower)}
    stages = 0
    for member in container.children():
        alike = _outermost(member, lambda c: kinds.issuperset(map(type, children(c))), repeating)
        lists = [tower for _, tower in alike]
        held = sum(map(parameter_count, lists))
        is_layer = _has_parts(member) or any(_is_routed(member, tower) for tower in lists)
        stages += not is_layer and held > parameter_count(member) / 2
    return 2 * stages > len(inside)


def _is_routed(member: nn.Module, tower: nn.Module) -> bool:
    """Whether a router within it has a number for each of a list: these run side by side."""
    inside = set(tower.modules())
    linear = (m for m in member.modules() if isinstance(m, nn.Linear) and m not in inside)
    return any(each.out_features == len(children(tower)) for each in linear)


def _has_parts(member: nn.Module) -> bool:
    """Whether it has two parts, besides its lists, that could be blocks themselves."""
    beside = [child for child in member.children() if not isinstance(child, LISTS)]
    return not is_container(member) and sum(map(is_block, beside)) >= 2


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
