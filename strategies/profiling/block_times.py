"""How long a block takes in several ways, side by side on its own device, as the model calls it."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from strategies.execution.errors import in_a_line
from strategies.execution.stand_in import StandIn
from strategies.execution.tensors import tensors_in
from strategies.profiling.oom import is_out_of_memory

ENOUGH_S = 0.3
"""Of measuring one block; small blocks are noisy, and run often."""
FEWEST_ROUNDS, MOST_ROUNDS = 5, 50


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The time of one way to run a block, over that of the block as it is.

    Attributes:
        forward: of forward alone.
        total: of forward and backward.
    """

    forward: float
    total: float


class TimedForward(StandIn):
    """Runs a block in several ways when the model calls it, and then as it is.

    The ways take turns, so that what else the machine does falls on all of them; the first turn,
    in which a compiler may work, is not counted.

    Attributes:
        ways: what is compared, by name.
        ratios: of each way that runs.
        refused: why another does not.
    """

    def __init__(
        self,
        module: nn.Module,
        plain: Callable[..., Any],
        ways: Mapping[str, Callable[..., Any]],
        entry: str,
    ) -> None:
        super().__init__(module, entry)
        self.plain, self.ways = plain, dict(ways)
        self.ratios: dict[str, Ratio] = {}
        self.refused: dict[str, str] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        alone = tree_map(_alone, (args, kwargs))
        _timed(self.plain, self.module, *alone)
        for name in list(self.ways):
            self._first(name, *alone)
        self._compare(*alone)
        return self.plain(*args, **kwargs)

    def _first(self, name: str, args: Any, kwargs: Any) -> None:
        try:
            for _ in range(2):  # an argument's second value may show that it changes
                _timed(self.ways[name], self.module, args, kwargs)
        except Exception as error:  # whatever a compiler makes of it
            if is_out_of_memory(error):
                raise
            del self.ways[name]
            self.refused[name] = in_a_line(error)

    def _compare(self, args: Any, kwargs: Any) -> None:
        if not self.ways:
            return
        rounds: dict[str, list[Ratio]] = {name: [] for name in self.ways}
        begin_s = time.perf_counter()
        for count in range(MOST_ROUNDS):
            if count >= FEWEST_ROUNDS and time.perf_counter() - begin_s > ENOUGH_S:
                break
            plain = _timed(self.plain, self.module, args, kwargs)
            for name, way in self.ways.items():
                rounds[name].append(_ratio(_timed(way, self.module, args, kwargs), plain))
        self.ratios = {name: _median(ratios) for name, ratios in rounds.items()}


def _alone(leaf: Any) -> Any:
    """An argument without the graph that it comes from."""
    return leaf.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf


def _timed(
    way: Callable[..., Any], block: nn.Module, args: Any, kwargs: Any
) -> tuple[float, float]:
    """Seconds of one forward, and of one backward, gradients given to nobody."""
    learning = [t for t in (*tensors_in((args, kwargs)), *block.parameters()) if t.requires_grad]
    device = next((p.device for p in block.parameters()), torch.device("cpu"))
    begin_s = now_s(device)
    outputs = [t for t in tensors_in(way(*args, **kwargs)) if t.requires_grad]
    forward_s = now_s(device) - begin_s
    gradients = [torch.ones_like(output) for output in outputs]
    begin_s = now_s(device)
    if outputs and learning:
        torch.autograd.grad(outputs, learning, gradients, allow_unused=True)
    return forward_s, now_s(device) - begin_s


def now_s(device: torch.device) -> float:
    """The time at which a device has done all that it was told to."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _ratio(times_s: tuple[float, float], plain_s: tuple[float, float]) -> Ratio:
    return Ratio(times_s[0] / plain_s[0], sum(times_s) / sum(plain_s))


def _median(ratios: list[Ratio]) -> Ratio:
    return Ratio(
        statistics.median(ratio.forward for ratio in ratios),
        statistics.median(ratio.total for ratio in ratios),
    )
