"""Strategies that are wrong on purpose; the harness has to say so.

They come in as anyone's would: by the entry points of an installed distribution (`install`).
"""

import contextlib
import dataclasses
import functools
import os
import random
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from strategies.compressed import Compressed
from strategies.contract import foreign
from strategies.contract.budgeted import Budgeted
from strategies.contract.strategy import Strategy
from strategies.execution.errors import Unsupported
from strategies.execution.undo import replace_forward
from strategies.optimal import Optimal
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution


def install(folder):
    """Make ``folder`` hold a distribution that declares every strategy of this file."""
    info = folder / "planted-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 0\n")
    found = [v for v in globals().values() if isinstance(v, type) and issubclass(v, Strategy)]
    own = [c for c in found if c.__module__ == __name__]
    lines = [f"{c.name()} = {__name__}:{c.__name__}" for c in own]
    (info / "entry_points.txt").write_text("\n".join([f"[{foreign.ENTRY_POINTS}]", *lines, ""]))


@contextlib.contextmanager
def found_in(folder):
    """This process, and those that it starts, find the distribution in ``folder``."""
    install(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def search_path(folder):
    """PYTHONPATH of a process that is to find them."""
    here = Path(__file__).resolve().parent
    return os.pathsep.join(map(str, (folder, here, here.parent)))


def _parameter(model):
    """The parameter whose gradient is touched: (name, parameter)."""
    return list(model.named_parameters())[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropsGradient(Strategy):
    """One parameter's gradient never arrives."""

    def install(self, model, chain):
        _, parameter = _parameter(model)
        handle = parameter.register_post_accumulate_grad_hook(_drop)
        return [handle.remove]


def _drop(parameter):
    parameter.grad = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropsGradientButIsLossy(DropsGradient):
    """The same, by a strategy that does not promise bits."""

    @property
    def exact(self):
        return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalesGradient(Strategy):
    """One parameter's gradient is a millionth too large."""

    factor: float = 1 + 1e-6

    def install(self, model, chain):
        handle = _parameter(model)[1].register_hook(lambda gradient: gradient * self.factor)
        return [handle.remove]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalesLoss(Strategy):
    """The last block's output is a thousandth too large, so everything is."""

    def install(self, model, chain):
        handle = chain.blocks[-1].register_forward_hook(lambda block, args, out: out * 1.001)
        return [handle.remove]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetsRandomState(Strategy):
    """Recomputes every block with other random numbers."""

    def install(self, model, chain):
        options = {"use_reentrant": False, "preserve_rng_state": False}
        return [_checkpointed(block, **options) for block in chain.blocks]


def _checkpointed(block, **options):
    return replace_forward(block, functools.partial(checkpoint, block.forward, **options))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawsRandomNumbers(Strategy):
    """Takes numbers from the generator that everyone shares, after the last use of it."""

    def install(self, model, chain):
        handle = chain.blocks[-1].register_full_backward_hook(_draw)
        return [handle.remove]


def _draw(*_):
    torch.rand(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdatesStatisticsTwice(Strategy):
    """Recomputes batch norms as if for the first time."""

    def install(self, model, chain):
        return [_checkpointed(block, use_reentrant=False) for block in chain.blocks]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakesNan(Strategy):
    """One parameter's gradient is no number."""

    def install(self, model, chain):
        handle = _parameter(model)[1].register_hook(lambda gradient: gradient * float("nan"))
        return [handle.remove]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakesNanButIsLossy(MakesNan):
    """The same, by a strategy that does not promise bits."""

    @property
    def exact(self):
        return False


# Wrong where the first step, or the gradient alone, does not show it.


class Steps:
    """How often a model ran forward, over all applications or since the last one."""

    def __init__(self, model, *, anew=False):
        vars(model).setdefault("planted_steps", 0)
        self.model, self.start = model, vars(model)["planted_steps"] if anew else 0
        self.undo = model.register_forward_pre_hook(self.count).remove

    def count(self, *_):
        vars(self.model)["planted_steps"] += 1

    @property
    def number(self):
        return vars(self.model)["planted_steps"] - self.start


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoublesGradientLater(Strategy):
    """Every gradient is twice what it should be, from the second step on.

    Of the process, or of each application (``anew``).
    """

    anew: bool = False
    after: int = 1
    factor: ClassVar[float] = 2.0

    def install(self, model, chain):
        steps = Steps(model, anew=self.anew)
        handles = [
            p.register_hook(lambda g: g * self.factor if steps.number > self.after else g)
            for p in model.parameters()
        ]
        return [steps.undo, *(handle.remove for handle in handles)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NegatesGradientLater(DoublesGradientLater):
    """The same, uphill."""

    factor: ClassVar[float] = -1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakesNanLater(DoublesGradientLater):
    """The same, and no number."""

    factor: ClassVar[float] = float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StopsRecomputing(Strategy):
    """Keeps everything after the third step: as fast as none, and as large."""

    anew: bool = False
    after: int = 3

    def install(self, model, chain):
        steps = Steps(model, anew=self.anew)
        undos = [self._tired(block, steps) for block in chain.blocks]
        return [steps.undo, *undos]

    def _tired(self, block, steps):
        original = block.forward

        def forward(*args):
            if steps.number > self.after:
                return original(*args)
            return checkpoint(original, *args, use_reentrant=False)

        return replace_forward(block, forward)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChangesParameters(Strategy):
    """``apply`` rounds the weights, or spoils them: while it asks whether it can run, or later."""

    how: str = "quantise"
    late: bool = False

    def unsupported(self, model, device):
        if not self.late:
            self._change(model)

    def install(self, model, chain):
        if self.late:
            self._change(model)
        return []

    def _change(self, model):
        with torch.no_grad():
            for parameter in model.parameters():
                if self.how == "nan":
                    parameter.fill_(float("nan"))
                else:
                    parameter.copy_(parameter.bfloat16())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChangesParametersInBackward(Strategy):
    """A weight is not after backward what it was before."""

    def install(self, model, chain):
        parameter = _parameter(model)[1]
        return [parameter.register_post_accumulate_grad_hook(_nudge).remove]


def _nudge(parameter):
    with torch.no_grad():
        parameter.mul_(1.001)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChangesBuffers(Strategy):
    """Running statistics are others than the model came with."""

    def unsupported(self, model, device):
        for buffer in model.buffers():
            buffer.add_(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NegatesButIsLossy(Compressed):
    """An honest codec, and a gradient that points uphill."""

    factor: ClassVar[float] = -1.0

    def install(self, model, chain):
        handles = [p.register_hook(lambda g: g * self.factor) for p in model.parameters()]
        return [*super().install(model, chain), *(handle.remove for handle in handles)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakesZeroButIsLossy(NegatesButIsLossy):
    """The same, and a gradient of nothing."""

    factor: ClassVar[float] = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawsElsewhere(Strategy):
    """Takes numbers from Python's generator, or from numpy's: in backward, or in ``apply``."""

    whose: str = "python"
    late: bool = True

    def install(self, model, chain):
        draw = random.random if self.whose == "python" else np.random.random
        if not self.late:
            draw()
            return []
        return [chain.blocks[-1].register_full_backward_hook(lambda *_: draw() and None).remove]


# Not wrong but in the way.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Misbehaves(Strategy):
    """Ends the process, or tries to, when the first block runs."""

    how: str = "error"
    text: str = ""

    def install(self, model, chain):
        handle = chain.blocks[0].register_forward_pre_hook(lambda *_: _WAYS[self.how](self.text))
        return [handle.remove]


def _raise(text):
    raise RuntimeError(f"planted {text}\nand a second line")


def _abort(text):
    os.write(2, b"planted last words\n")
    os.abort()


def _print(text):
    sys.stdout.write("planted print\n")
    os.write(1, b"planted write\n")
    os.system("echo planted shell")


def _hang(text):
    Path(text).write_text(str(os.getpid()))
    time.sleep(600)


_WAYS = {
    "error": _raise,
    "abort": _abort,
    "exit": lambda text: os._exit(3),
    "print": _print,
    "hang": _hang,
    "allocate": lambda text: torch.empty(1 << 50, dtype=torch.uint8),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refuses(Strategy):
    """Cannot run anywhere."""

    def unsupported(self, model, device):
        return f"planted: not on {device.type}"


# Not wrong at all: strategies that keep a budget, as anyone may add.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thrifty(Budgeted):
    """Everything is kept, or every other boundary, as the budget allows."""

    def solution(self, profile, budget_bytes):
        found = [Schedule(plan) for plan in self._plans(profile)]
        fitting = [s for s in found if predict(profile, s).peak_bytes <= budget_bytes]
        return Solution(fitting[0], 0.0) if fitting else None

    def smallest_bytes(self, profile):
        return min(predict(profile, plan).peak_bytes for plan in self._plans(profile))

    def _plans(self, profile):
        count = len(profile.blocks)
        return plans.plain(count), plans.uniform(count, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renamed(Optimal):
    """Another name for the optimal plan."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unplannable(Thrifty):
    """Wants to know what no profile tells."""

    def profiled(self, chain, step):
        raise Unsupported("unplannable: planted: no profile will do")
