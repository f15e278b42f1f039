"""Other people's implementations as strategies, so that one harness runs and checks them all."""

from __future__ import annotations

import abc
import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.execution.stand_in import StandIn
from strategies.execution.undo import RestoreAttribute, Undo

IN_PLACE = "needs an accelerator: on a CPU the model is in host memory already"
"""Why what moves tensors to host memory cannot run on a CPU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer(Strategy, abc.ABC):
    """Checkpointing by someone else's code, which is called as its own documentation does.

    A peer decides by itself what is kept; nothing here plans for it. Its package is imported when
    it is applied, and not before.
    """

    opaque: ClassVar[bool] = True
    package: ClassVar[str] = "torch"
    """The distribution whose code runs."""

    @classmethod
    def version(cls) -> str | None:
        """Of the package, or ``None`` where it is not installed."""
        try:
            return importlib.metadata.version(cls.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    @property
    def peer(self) -> str | None:
        """``fairscale 0.4.13``."""
        return " ".join(filter(None, (self.package, self.version())))

    def unsupported(self, model: nn.Module, device: torch.device) -> str | None:
        """Not installed, or what the peer itself cannot do."""
        if self.version() is None:
            return f"{self.package} is not installed: pip install {self.package}"
        return self.refusal(model, device)

    def refusal(self, model: nn.Module, device: torch.device) -> str | None:  # noqa: ARG002
        """Why the installed peer cannot run here, or ``None``."""
        return None

    @abc.abstractmethod
    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:
        """Have the peer's code run; returns how to take it out again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockPeer(Peer, abc.ABC):
    """A peer that is a function around each block."""

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:  # noqa: ARG002
        """Around every block, once."""
        return [Around(block, self.run).install() for block in dict.fromkeys(chain.blocks)]

    @abc.abstractmethod
    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One block's forward under the peer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elsewhere(Peer, abc.ABC):
    """A peer that hands back a module of its own: its row says why there is nothing in it."""

    def unsupported(self, model: nn.Module, device: torch.device) -> str | None:
        """Whether it is installed does not matter where it could not run."""
        return self.refusal(model, device)

    def refusal(self, model: nn.Module, device: torch.device) -> str | None:  # noqa: ARG002
        """It does not work in place."""
        return "it builds another module from the model, which shares no hooks or names with it"

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:
        """Never: it is refused before."""
        raise AssertionError(self.refusal(model, torch.device("cpu")), chain)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing(BlockPeer, abc.ABC):
    """Code that the textbook's chapter prints, as it is printed."""

    @property
    def peer(self) -> str | None:
        """No package: the chapter."""
        return "the textbook"


class Around(StandIn):
    """Has a peer run a block's ``forward`` where gradients are recorded."""

    def __init__(self, module: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__(module)
        self.run = run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        if not torch.is_grad_enabled():
            return self.original(*args, **kwargs)
        return self.run(self.original, *args, **kwargs)


def undoable(model: nn.Module, change: Callable[[], object]) -> list[Undo]:
    """Let a peer change modules as it likes, and know afterwards what to put back.

    Seen are attributes of the modules' instances, and hooks that are registered on them.
    """
    modules = list(model.modules())
    before = [(dict(vars(module)), _hooks(module)) for module in modules]
    change()
    undos: list[Undo] = []
    for module, (attributes, hooks) in zip(modules, before, strict=True):
        undos += [RemoveHooks(vars(module)[name], known) for name, known in hooks.items()]
        undos += _restored(module, attributes)
    return undos


def _hooks(module: nn.Module) -> dict[str, frozenset[int]]:
    """Numbers of the hooks of every kind."""
    named = vars(module).items()
    return {name: frozenset(v) for name, v in named if "hooks" in name and isinstance(v, dict)}


def _restored(module: nn.Module, before: dict[str, Any]) -> Iterable[Undo]:
    now = vars(module)
    changed = [name for name in now if name not in before or before[name] is not now[name]]
    return [
        RestoreAttribute(module, name, existed=name in before, value=before.get(name))
        for name in changed
    ]


@dataclasses.dataclass
class RemoveHooks(Undo):
    """Takes out the hooks of one kind that came later."""

    hooks: dict[int, Any]
    known: frozenset[int]

    def __call__(self) -> None:
        """Put it back."""
        for number in [number for number in self.hooks if number not in self.known]:
            del self.hooks[number]
