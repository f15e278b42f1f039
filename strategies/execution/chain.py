"""Finds the blocks of a model: the repeated unit, in the order in which it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from strategies.execution.errors import Unsupported
from strategies.schedules.profile import ChainProfile

Container = nn.ModuleList | nn.Sequential


@dataclasses.dataclass(frozen=True)
class Chain:
    """The blocks of a model in running order, and the containers that hold them.

    Attributes:
        containers: the ``ModuleList`` or ``Sequential`` modules, in running order.
        paths: each container's dotted path in the model.
        blocks: all blocks, in running order.
        names: each block's dotted path.
        borders: index of the first block of every container but the first; no recompute group
            may run across one.
        profile: what the blocks cost, for strategies that need to know.
    """

    containers: tuple[Container, ...]
    paths: tuple[str, ...]
    blocks: tuple[nn.Module, ...]
    names: tuple[str, ...]
    borders: tuple[int, ...]
    profile: ChainProfile | None = None

    def __len__(self) -> int:
        return len(self.blocks)


def find_chain(model: nn.Module, blocks: str | Sequence[str] | None = None) -> Chain:
    """The chain of ``model``.

    Args:
        model: any module whose blocks sit in a ``ModuleList`` or ``Sequential``.
        blocks: dotted path of the container (``"transformer.h"``) or several, in running order
            (a list, or comma separated). Without it, the outermost container of alike blocks with
            most parameters is taken, with its siblings of the same kind (the stages of a ResNet);
            failing that, a ``Sequential`` of unlike blocks.

    Raises:
        ValueError: ``blocks`` names no container.
        Unsupported: the model has none.
    """
    towers = _named(model, blocks) if blocks else _discovered(model)
    containers = tuple(container for _, container in towers)
    names = [f"{path}.{key}" if path else key for path, c in towers for key in _keys(c)]
    members = [block for container in containers for block in _children(container)]
    borders = [sum(len(_keys(c)) for c in containers[:i]) for i in range(1, len(containers))]
    paths = tuple(path for path, _ in towers)
    return Chain(containers, paths, tuple(members), tuple(names), tuple(borders))


def _keys(container: nn.Module) -> list[str]:
    return [key for key, child in container._modules.items() if child is not None]


def _children(container: nn.Module) -> list[nn.Module]:
    # Not .children(): it hides a block that is used twice (ALBERT shares one layer).
    return [child for child in container._modules.values() if child is not None]


def _named(model: nn.Module, blocks: str | Sequence[str]) -> list[tuple[str, Container]]:
    paths = [p.strip() for p in blocks.split(",")] if isinstance(blocks, str) else list(blocks)
    containers = []
    for path in paths:
        try:
            container = model.get_submodule(path)
        except AttributeError as error:
            raise ValueError(f"the model has no module {path!r}; {_candidates(model)}") from error
        if not isinstance(container, (nn.ModuleList, nn.Sequential)) or not _keys(container):
            raise ValueError(
                f"{path!r} is a {type(container).__name__}, not a filled ModuleList or Sequential;"
                f" {_candidates(model)}"
            )
        containers.append((path, container))
    return containers


def _candidates(model: nn.Module) -> str:
    paths = [repr(path) for path, _ in _outermost(model, _filled)]
    return f"blocks may be {', '.join(paths)}" if paths else "it holds no ModuleList or Sequential"


def _discovered(model: nn.Module) -> list[tuple[str, Container]]:
    alike = list(_outermost(model, _is_alike))
    if alike:
        _, largest = max(alike, key=lambda item: _parameter_count(item[1]))
        kind = type(_children(largest)[0])
        return list(_outermost(model, lambda c: {type(b) for b in _children(c)} == {kind}))
    unlike = [(path, c) for path, c in _outermost(model, _filled) if isinstance(c, nn.Sequential)]
    if unlike:
        return [max(unlike, key=lambda item: _parameter_count(item[1]))]
    raise Unsupported(
        "no chain of blocks found: the model holds no ModuleList or Sequential of at least two"
        " blocks with parameters; name it with blocks='path.to.container'"
    )


def _outermost(
    module: nn.Module, wanted: Callable[[nn.Module], bool], path: str = ""
) -> Iterator[tuple[str, Container]]:
    """Containers that satisfy ``wanted``, not looking inside one that does."""
    if isinstance(module, (nn.ModuleList, nn.Sequential)) and wanted(module):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _outermost(child, wanted, f"{path}.{name}" if path else name)


def _filled(container: nn.Module) -> bool:
    return len(_keys(container)) >= 2 and _parameter_count(container) > 0


def _is_alike(container: nn.Module) -> bool:
    children = _children(container)
    same_class = len({type(child) for child in children}) == 1
    plain = isinstance(children[0], (nn.ModuleList, nn.Sequential)) if children else True
    return _filled(container) and same_class and not plain and _parameter_count(children[0]) > 0


def _parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
