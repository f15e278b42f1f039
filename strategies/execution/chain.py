"""Finds the blocks of a model: the repeated unit, in the order in which it runs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import nn

from strategies.execution import discovery
from strategies.execution.containers import (
    PARTS,
    Alone,
    Attributes,
    Parts,
    children,
    is_container,
    keys,
)
from strategies.execution.discovery import Tower
from strategies.execution.errors import Unsupported
from strategies.schedules.profile import ChainProfile


@dataclasses.dataclass(frozen=True)
class Chain:
    """The blocks of a model in running order, and the containers that hold them.

    A block that runs several times in one forward is there as often, where that is known
    (`of_calls`): what is planned for are its calls.

    Attributes:
        containers: the ``ModuleList`` or ``Sequential`` modules, in running order.
        paths: each container's dotted path in the model.
        blocks: all blocks, in running order.
        names: each block's dotted path.
        borders: index of the first block of every container but the first; no recompute group
            may run across one.
        profile: what the blocks cost, for strategies that need to know.
        left_out: paths of containers that were found, and that no strategy of a chain can plan for.
    """

    containers: tuple[nn.Module, ...]
    paths: tuple[str, ...]
    blocks: tuple[nn.Module, ...]
    names: tuple[str, ...]
    borders: tuple[int, ...]
    profile: ChainProfile | None = None
    left_out: tuple[str, ...] = ()

    @property
    def spans(self) -> list[range]:
        """The blocks of each container."""
        ends = (0, *self.borders, len(self))
        return [range(begin, end) for begin, end in itertools.pairwise(ends)]

    @property
    def holders(self) -> list[nn.Module]:
        """The blocks, or what holds them as parts: where a sub-module is looked for by its name."""
        lists = (c.holders if isinstance(c, Parts) else children(c) for c in self.containers)
        return list(itertools.chain(*lists))

    @property
    def repeats(self) -> bool:
        """Whether a block is in several places, all of which run its one forward."""
        return len(set(self.blocks)) < len(self)

    def __len__(self) -> int:
        return len(self.blocks)


def find_chain(model: nn.Module, blocks: str | Sequence[str] | None = None) -> Chain:
    """The chain of ``model``.

    Args:
        model: any module whose blocks sit in a ``ModuleList`` or ``Sequential``.
        blocks: dotted path of the container (``"transformer.h"``) or several, in running order
            (a list, or comma separated); ``"layers.*"`` for the parts of each member, where the
            model calls those; of a block that runs many times, its own path. Without it, every
            tower is taken: all lists of blocks, of encoder and decoder, of all stages; failing
            that, a list of alike layers, or a ``Sequential`` of unlike ones. Left out are
            containers within a block of another, and those of TorchScript, which swallows the
            signal that ends a recompute.

    Raises:
        ValueError: ``blocks`` names no container.
        Unsupported: the model has none, or of TorchScript alone, or has lazy modules.
    """
    if any(map(nn.parameter.is_lazy, model.parameters())):
        raise Unsupported("lazy modules have no shapes yet; run a batch through the model first")
    towers = _named(model, blocks) if blocks else discovery.towers(model)
    left_out = [tower[0] for tower in towers if _cannot_run_again(tower, towers)]
    if len(left_out) == len(towers):
        raise Unsupported(
            "all blocks are TorchScript, or hold it; apply the strategy before torch.jit.script"
        )
    chain = of_towers([tower for tower in towers if tower[0] not in left_out])
    return dataclasses.replace(chain, left_out=tuple(left_out))


def _cannot_run_again(tower: Tower, towers: Sequence[Tower]) -> bool:
    """Whether a tower lies in a block of another, or holds TorchScript."""
    path, container = tower
    inside = any(path.startswith(f"{other}.") for other, _ in towers)
    return inside or any(isinstance(m, torch.jit.ScriptModule) for m in container.modules())


def of_towers(towers: Sequence[Tower]) -> Chain:
    """The chain of some towers, in running order."""
    within = [(path.removesuffix(PARTS), container) for path, container in towers]
    names = [".".join(filter(None, (path, key))) for path, c in within for key in keys(c)]
    sizes = [len(keys(container)) for _, container in towers]
    return Chain(
        containers=tuple(container for _, container in towers),
        paths=tuple(path for path, _ in towers),
        blocks=tuple(block for _, c in towers for block in children(c)),
        names=tuple(names),
        borders=tuple(itertools.accumulate(sizes))[:-1],
    )


def of_calls(chain: Chain, order: Sequence[int]) -> Chain:
    """The chain of the calls of blocks: a block that is called several times, in as many places.

    Args:
        chain: each block once.
        order: the indices of the blocks, as they are called.
    """
    towers = [number for number, span in enumerate(chain.spans) for _ in span]
    begins = [n for n, at in enumerate(order) if not n or towers[at] != towers[order[n - 1]]]
    running = [towers[order[begin]] for begin in begins]
    return dataclasses.replace(
        chain,
        containers=tuple(chain.containers[tower] for tower in running),
        paths=tuple(chain.paths[tower] for tower in running),
        blocks=tuple(chain.blocks[at] for at in order),
        names=tuple(chain.names[at] for at in order),
        borders=tuple(begins[1:]),
    )


def in_copy(chain: Chain, model: nn.Module) -> Chain:
    """The same chain in a copy of its model; without the profile."""
    blocks = tuple(map(model.get_submodule, chain.names))
    containers = find_chain(model, chain.paths).containers
    return dataclasses.replace(chain, containers=containers, blocks=blocks, profile=None)


def _named(model: nn.Module, blocks: str | Sequence[str]) -> list[Tower]:
    paths = [p.strip() for p in blocks.split(",")] if isinstance(blocks, str) else list(blocks)
    return [_named_tower(model, path) for path in paths]


def _named_tower(model: nn.Module, path: str) -> Tower:
    try:
        module = model.get_submodule(path.removesuffix(PARTS))
    except AttributeError as error:
        raise ValueError(f"the model has no module {path!r}; {_candidates(model)}") from error
    if path.endswith(PARTS):
        return path, _parts(module, path)
    listed = is_container(module)
    container = module if listed else Attributes.of(module) or _alone(module) or module
    if not is_container(container) or not keys(container):
        raise ValueError(
            f"{path!r} is a {type(container).__name__}, not a filled ModuleList or Sequential;"
            f" {_candidates(model)}"
        )
    return discovery.opened(path, container)


def _alone(module: nn.Module) -> Alone | None:
    """A block, if there is none inside."""
    return None if discovery.holds_lists(module) else Alone.of(module)


def _parts(module: nn.Module, path: str) -> Parts:
    parts = Parts.of(module, asked=True)
    if parts is None:
        raise ValueError(
            f"{path!r} names no blocks: no two parts of the members of that"
            f" {type(module).__name__} can be called and hold two matrices each"
        )
    return parts


def _candidates(model: nn.Module) -> str:
    paths = [repr(path) for path in discovery.filled(model)]
    return f"blocks may be {', '.join(paths)}" if paths else "it holds no ModuleList or Sequential"
