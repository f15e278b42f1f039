"""Finds the towers of a model: the lists of its repeated blocks, by structure alone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

from torch import nn

from strategies.execution.errors import Unsupported

Container = nn.ModuleList | nn.Sequential | nn.ModuleDict
Tower = tuple[str, Container]

LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
_PARALLEL = re.compile(r"expert|branch|head|router|pool|scale", re.IGNORECASE)
"""Names of lists whose members run side by side, within a block."""


def towers(model: nn.Module) -> list[Tower]:
    """Every list of blocks: of encoder and decoder, of all stages, of blocks of several classes.

    Raises:
        Unsupported: there is none.
    """
    lists = list(_block_lists(model))
    if lists:
        kinds = {type(block) for _, tower in lists for block in children(tower)}
        return list(_outermost(model, lambda c: {type(b) for b in children(c)} <= kinds, lists))
    layers = [tower for tower in _outermost(model, is_alike) if not _is_table(tower)]
    if layers:
        _, largest = max(layers, key=lambda item: _parameter_count(item[1]))
        kind = type(children(largest)[0])
        return [(path, c) for path, c in layers if type(children(c)[0]) is kind]
    unlike = [(p, c) for p, c in _outermost(model, is_filled) if isinstance(c, nn.Sequential)]
    if unlike:
        return [max(unlike, key=lambda item: _parameter_count(item[1]))]
    alone = list(_block_lists(model, least=1))  # ALBERT's only layer, which runs many times
    if alone:
        return alone
    raise Unsupported(
        "no chain of blocks found: the model holds no ModuleList or Sequential of at least two"
        " blocks with parameters; name it with blocks='path.to.container'"
    )


def _is_table(tower: Tower) -> bool:
    return isinstance(tower[1], nn.ModuleDict)


def filled(model: nn.Module) -> list[str]:
    """Paths of the outermost lists of at least two modules."""
    return [path for path, _ in _outermost(model, is_filled)]


def keys(container: nn.Module) -> list[str]:
    """Names of the members that are there."""
    return [key for key, child in container._modules.items() if child is not None]


def children(container: nn.Module) -> list[nn.Module]:
    """The members; unlike ``.children()``, one that is there twice (ALBERT's), twice."""
    return [child for child in container._modules.values() if child is not None]


def is_filled(container: nn.Module) -> bool:
    """Whether it has two members, and parameters."""
    return len(keys(container)) >= 2 and _parameter_count(container) > 0


def is_alike(container: nn.Module) -> bool:
    """Whether all members are of one class, which is none of lists, and have parameters."""
    members = children(container)
    same_class = len({type(member) for member in members}) == 1
    plain = isinstance(members[0], LISTS) if members else True
    return is_filled(container) and same_class and not plain and _parameter_count(members[0]) > 0


def _block_lists(module: nn.Module, path: str = "", least: int = 2) -> Iterator[Tower]:
    """The lists of ``least`` blocks or more, those within stages rather than the stages."""
    name = path.rpartition(".")[2]
    if isinstance(module, LISTS) and _holds_blocks(module, least) and not _PARALLEL.search(name):
        inside = [
            list(_block_lists(child, f"{path}.{key}" if path else key, least))
            for key, child in module._modules.items()
            if child is not None
        ]
        yield from itertools.chain(*inside) if _are_stages(module, inside) else [(path, module)]
        return
    for key, child in module.named_children():
        yield from _block_lists(child, f"{path}.{key}" if path else key, least)


def _holds_blocks(container: Container, least: int) -> bool:
    """Whether all members are blocks; of a ``Sequential``, of one class that is no list."""
    members = children(container)
    if len(members) < least or not all(map(_is_block, members)):
        return False
    return isinstance(container, nn.ModuleList) or is_alike(container)


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


def _are_stages(container: Container, inside: list[list[Tower]]) -> bool:
    """Whether most members hold a list of alike blocks with most of their parameters.

    And little else: MobileBERT's layers hold a list of feed-forward nets beside their attention.
    """
    stages = 0
    for member, lists in zip(children(container), inside, strict=True):
        if _has_parts(member):
            continue
        alike = [tower for _, tower in lists if len({type(b) for b in children(tower)}) == 1]
        share = sum(map(_parameter_count, alike)) / max(1, _parameter_count(member))
        stages += share > 0.5
    return 2 * stages > len(inside)


def _has_parts(member: nn.Module) -> bool:
    """Whether it has two parts, besides its lists, that could be blocks themselves."""
    beside = [child for child in member.children() if not isinstance(child, LISTS)]
    return not isinstance(member, LISTS) and sum(map(_is_block, beside)) >= 2


def _outermost(
    module: nn.Module,
    is_tower: Callable[[nn.Module], bool],
    towers: list[Tower] | None = None,
    path: str = "",
) -> Iterator[Tower]:
    """Lists that satisfy ``is_tower``, not looking inside one that does, nor inside known ones."""
    is_known = any(module is tower for _, tower in towers or ())
    if isinstance(module, LISTS) and (is_known or (children(module) and is_tower(module))):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _outermost(child, is_tower, towers, f"{path}.{name}" if path else name)


def _parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
