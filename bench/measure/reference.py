"""What a model does that no strategy has touched: four training steps, kept as digests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from bench.cells.training import TrainingStep
from bench.measure import generators, gradients, rounding
from bench.measure.digests import Digests, digest, digests
from bench.measure.gradients import Outcome
from bench.measure.rounding import Distance

UPDATES = 3
"""Optimizer steps. Memory, FLOPs and time are of the step after the last."""
MEASURED = UPDATES + 1
RATE = 1e-3
"""Of plain SGD where a cell has no optimizer: parameters must move for the next step to be new."""
SMALL_RATE = 1e-6
"""Of an inexact strategy, whose updates are others: its steps are to stay near the reference's."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """What one step left behind.

    Attributes:
        loss: its value.
        loss_digest: of its bits.
        gradients: digests by parameter name.
        drift: of the gradients from those of the first step; ``None`` where nobody asks.
        buffers: copies, after backward.
        random_state: of the generators, after backward.
        parameters: digests after the update; of the last step, which has none, before it.
    """

    loss: float
    loss_digest: int
    gradients: Digests
    drift: Distance | None
    buffers: Mapping[str, Tensor]
    random_state: tuple[Tensor, ...]
    parameters: Digests = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a cell's strategy is compared with.

    Attributes:
        seed: of the cell.
        exact: whether the strategy promises bits.
        parameters: digests of the model as it is built.
        buffers: copies of the same.
        random_state: of the generators when they are seeded.
        first: the first step's outcome, with values.
        traces: of every step; entry *i* is of step *i + 1*.
        precise: the first step in fp64, where the strategy does not promise bits.
    """

    seed: int
    exact: bool
    parameters: Digests
    buffers: Mapping[str, Tensor]
    random_state: tuple[Tensor, ...]
    first: Outcome
    traces: tuple[Trace, ...]
    precise: Outcome | None

    @property
    def problem(self) -> str | None:
        """Why nothing can be compared with it, in a sentence, or ``None``."""
        if not self.first.loss.isfinite():
            return f"the reference's loss is {self.first.loss.item()}: nothing can be compared"
        values = self.first.gradients.items()
        bad = [name for name, g in values if g is not None and not g.isfinite().all()]
        if bad:
            return f"the reference's gradient is not finite for {', '.join(bad)}"
        return None

    def without_gradients(self) -> Reference:
        """For later, when they have been compared."""
        first = dataclasses.replace(self.first, gradients={})
        precise = self.precise and dataclasses.replace(self.precise, gradients={})
        return dataclasses.replace(self, first=first, precise=precise)


def repeats(step: TrainingStep, seed: int, times: int = 3) -> bool:
    """Whether the plain step gives the same bits each time, or something else altogether.

    Kernels that add up in the order in which threads arrive, as some of cuDNN's for the gradients
    of weights, give other bits; then bits can be promised by nobody. More than half of the digits
    is no rounding.

    Args:
        step: of a model that no strategy has touched.
        seed: of each step.
        times: that it is run.
    """
    first, *others = (gradients.run(step, seed) for _ in range(times))
    apart = [gradients.compare(first, other) for other in others]
    most = rounding.unit(step.precision) ** 0.5
    return all(one.bitwise_equal or one.max_rel_err > most for one in apart)


def seed_of(seed: int, number: int, *, exact: bool) -> int:
    """Of a step, counted from 1.

    Of an inexact strategy all steps draw the same numbers: then they differ by the updates alone,
    and one step in fp64 judges them all.
    """
    return seed + number - 1 if exact else seed


def updated(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """One update, by the step's own optimizer, or else by ``optimizer``."""
    own = step.update_rule
    step.update_rule = own or optimizer
    step.update()
    step.update_rule = own


def plain_sgd(step: TrainingStep, *, exact: bool) -> torch.optim.Optimizer:
    """For a cell without an optimizer; it has no state."""
    return torch.optim.SGD(step.model.parameters(), lr=RATE if exact else SMALL_RATE)


def observe(step: TrainingStep, seed: int, *, exact: bool) -> Reference:
    """Run the reference's steps.

    Args:
        step: built for this; its parameters are others afterwards.
        seed: of the first step.
        exact: whether bits are to be compared; otherwise the first step runs in fp64, too.
    """
    model = step.model
    generators.seed_all(seed)
    random_state = generators.states(step.device)
    parameters, buffers = digests(model.named_parameters()), gradients.copies(model.named_buffers())
    precise = None if exact else rounding.precise(step, seed)
    first, traces = _steps(step, seed, exact=exact)
    return Reference(seed, exact, parameters, buffers, random_state, first, tuple(traces), precise)


def _steps(step: TrainingStep, seed: int, *, exact: bool) -> tuple[Outcome, list[Trace]]:
    traces, optimizer = list[Trace](), plain_sgd(step, exact=exact)
    first: Outcome | None = None
    for number in range(1, MEASURED + 1):
        generators.seed_all(seed_of(seed, number, exact=exact))
        step.drop_gradients()
        loss = step.forward()
        step.backward(loss)
        outcome = gradients.outcome_of(step, loss)
        trace = _trace(outcome, None if exact else first)
        if first is None:  # a scaler's update changes gradients in place
            first = outcome if step.scaler is None else _copied(outcome)
        if number < MEASURED:
            updated(step, optimizer)
        parameters = digests(step.model.named_parameters())
        traces.append(dataclasses.replace(trace, parameters=parameters))
    step.drop_gradients()
    assert first is not None
    return first, traces


def _copied(outcome: Outcome) -> Outcome:
    values = outcome.gradients.items()
    return dataclasses.replace(
        outcome, gradients={n: None if g is None else g.clone() for n, g in values}
    )


def _trace(outcome: Outcome, first: Outcome | None) -> Trace:
    drift = None if first is None else rounding.distance(first.gradients, outcome.gradients)
    return Trace(
        loss=outcome.loss.item(),
        loss_digest=digest(outcome.loss),
        gradients=digests(outcome.gradients.items()),
        drift=drift,
        buffers=outcome.buffers,
        random_state=outcome.random_state,
    )
