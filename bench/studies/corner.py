"""A model of a contest, and its training loop: contenders are put on it one after the other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

import strategies
from bench.measure.time import Switch
from bench.studies import promises
from strategies.profiling.step import preserved

UPDATES = 2
"""Of the loop whose peak is measured: in the second the optimizer's state is there."""
SHORT_S = 0.1
"""A shorter step feels what putting a strategy on leaves cold, and no user's loop does that."""


class Corner:
    """A model, and its training loop, that contenders are put on."""

    def __init__(self, asked: promises.Question, *, accumulation: bool) -> None:
        self.bench = promises.Bench(asked, accumulation=accumulation)
        self.step = self.bench.step()

    def peak_bytes(self, prepared: strategies.Prepared) -> int:
        """Of the loop under a strategy; weights are then what they were."""
        with _unmoved(self.step.model), prepared.apply():
            if prepared.strategy.compiled or not prepared.strategy.exact:
                self.run()  # what compiling itself takes is none of the loop's
            return self.bench.peak_bytes(UPDATES)

    def run(self) -> None:
        """One step, from the gradients that the loop has there."""
        self.step.backward(self.step.forward())

    def switch(self, prepared: strategies.Prepared) -> Switch:
        """The step under a strategy, to be timed: the second, where that is short."""
        took_s = 0.0

        def timed() -> None:
            nonlocal took_s
            begin_s = time.perf_counter()
            self.run()
            took_s = time.perf_counter() - begin_s

        @contextlib.contextmanager
        def switch() -> Iterator[Callable[[], None]]:
            self.step.drop_gradients()
            with prepared.apply():
                if took_s < SHORT_S:
                    self.run()
                    self.step.drop_gradients()
                yield timed
            self.bench.subject.model.zero_grad(set_to_none=True)

        return switch


@contextlib.contextmanager
def _unmoved(model: nn.Module) -> Iterator[None]:
    """Afterwards weights, buffers and random states are what they were."""
    weights = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    with preserved(model):
        yield
    with torch.no_grad():
        for parameter, before in weights:
            parameter.copy_(before)
