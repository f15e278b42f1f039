"""The gradient gate: every pass of a cell is held against the reference's step of the same number.

What is measured is what was checked. The gate seeds each step, watches the parameters, and compares
what the step leaves behind: loss and gradients (to the bit where that is promised, else as
`bench.measure.rounding` judges), buffers, the generators of random numbers, and parameters.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from bench.cells.training import TrainingStep
from bench.measure import generators, gradients, reference, rounding
from bench.measure.digests import Digests, digest, digests, unlike
from bench.measure.gradients import Comparison, all_kept, close, same_bits, same_states
from bench.measure.reference import MEASURED, Reference, Trace
from bench.measure.rounding import MULTIPLE, Distance, Judge, distance, unit
from strategies.contract.floor import Floor

PEAK_TOLERANCE = 0.01
"""Between two steps of one application: a thread that copies may be late by a tensor."""
_DRIFT = 1e-2
"""Of running statistics, once updates by another gradient have moved the parameters elsewhere; a
statistic that is updated twice, or not at all, is a tenth off."""
_LOSS_UNITS = 4  # a mean of few values is rounded about so often


@dataclasses.dataclass(frozen=True)
class Promise:
    """What a strategy says of its gradients.

    Attributes:
        exact: equal to the bit.
        compiled: forward runs other kernels, so that buffers are equal but for rounding.
        floor: of a strategy that approximates.
        repeatable: the plain model gives the same bits twice. Where it does not, nothing is equal
            to the bit, and what a strategy promised exactly is held to rounding.
    """

    exact: bool
    compiled: bool = False
    floor: Floor | None = None
    repeatable: bool = True

    @property
    def rounded(self) -> bool:
        """Buffers are equal but for rounding."""
        return self.compiled or not self.repeatable


class Gate:
    """Holds the steps of a model under a strategy against the reference's.

    Args:
        seen: what the model does that no strategy has touched.
        step: of another model, built in the same way and given to the strategy.
        promise: of the strategy.

    Attributes:
        problem: the first that was found, in a sentence, or ``None``.
        checked_steps: how many were compared.
        parameters_equal: nothing but updates has changed them.
        comparison: of the first step, in values.
        apart: the first step's gradients from fp64, where bits are not promised.
        own: the reference's from fp64.
        buffers_apart: how far buffers may be apart, where they are promised but for rounding.
        first_loss: the strategy's, of the first step.
    """

    def __init__(self, seen: Reference, step: TrainingStep, promise: Promise) -> None:
        self.seen, self.step, self.promise = seen, step, promise
        self.problem = seen.problem
        self.checked_steps = 0
        self.parameters_equal = True
        self.comparison: Comparison | None = None
        self.apart: Distance | None = None
        self.own: Distance | None = None
        self.buffers_apart = gradients.ROUNDING
        self.first_loss = float("nan")
        self.loss: Tensor | None = None
        self._judge = self._make_judge()
        self._parameters: Digests = seen.parameters
        self._approved: list[Digests] = []
        self._optimizer = reference.plain_sgd(step, exact=seen.exact)
        self._number, self._before = 0, dict[str, Tensor]()
        self._scale = 1.0

    def _make_judge(self) -> Judge | None:
        if self.seen.precise is None:
            return None
        apart = rounding.buffer_error(self.seen.precise.buffers, self.seen.first.buffers)
        self.buffers_apart = max(self.buffers_apart, MULTIPLE * apart)
        right = self.seen.precise.gradients
        self.own = distance(right, self.seen.first.gradients)
        return Judge(right, self.own, unit(self.step.precision), self.promise.floor)

    def report(self, problem: str | None, where: str = "") -> None:
        """Keep the first problem."""
        if problem and self.problem is None:
            self.problem = f"{where}{problem}"

    # Around preparing and applying.

    def begin_untouched(self) -> None:
        """Seed: from here on the strategy may do what it likes, but change nothing."""
        generators.seed_all(self.seen.seed)

    def check_untouched(self, doer: str) -> None:
        """Parameters, buffers and generators are what they were."""
        moved = not same_states(self.seen.random_state, generators.states(self.step.device))
        self.report(f"{doer} moves the random state" if moved else None)
        self._check_parameters(doer)
        kept = all_kept(self.seen.buffers, dict(self.step.model.named_buffers()), same_bits)
        self.report(None if kept else f"{doer} changes buffers")

    def _check_parameters(self, doer: str) -> None:
        changed = unlike(self._parameters, digests(self.step.model.named_parameters()))
        self.parameters_equal &= not changed
        self.report(f"{doer} changes the parameters: {_listed(changed)}" if changed else None)

    # Around a step.

    def begin(self, number: int) -> None:
        """Make ready for a step, which can be run again as often as this is called before it."""
        state = dict(self.step.model.named_buffers())
        if self.step.update_rule is not None:
            state |= dict(self.step.model.named_parameters())
        if number == self._number:
            gradients.restore(state.items(), self._before)
        else:
            self._number, self._before = number, gradients.copies(state.items())
            self._scale = self.step.scaler.get_scale() if self.step.scaler else 1.0
        if self.step.scaler and self.step.scaler.get_scale() != self._scale:
            self.step.scaler.update(self._scale)  # the update of this step has changed it
        self.step.drop_gradients()
        generators.seed_all(reference.seed_of(self.seen.seed, number, exact=self.seen.exact))

    def let_go(self) -> None:
        """Of gradients and loss, so that no measured step begins by freeing them."""
        self.step.drop_gradients()
        self.loss = None

    def scale_again(self) -> None:
        """What a gradient scaler's update has divided: by a power of two, and so to the bit.

        Of fp32 weights it has divided gradients of their own.
        """
        step = self.step
        if step.update_rule is None or step.masters is not None or self._scale == 1.0:
            return
        for parameter in step.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self._scale)

    def forward_of(self, number: int) -> Callable[[], Tensor]:
        """Forward of a step, made ready each time that it is called."""

        def forward() -> Tensor:
            self.begin(number)
            loss = self.step.forward()
            self.loss = loss.detach()
            return loss

        return forward

    def check(self, number: int, loss: Tensor | None = None, where: str = "") -> None:
        """Compare what a step left behind, its gradients still there.

        Args:
            number: of the step.
            loss: default: of the last `forward_of`.
            where: what the step was for, as the beginning of a sentence.
        """
        loss = self.loss if loss is None else loss
        assert loss is not None
        self.checked_steps += 1
        trace = self.seen.traces[number - 1]
        where = where or (f"in step {number}: " if number > 1 else "")
        if number == 1:
            self._check_first(loss)
        for problem in self._problems(trace, loss):
            self.report(problem, where)

    def check_measured(self, loss: Tensor | None, what: str) -> None:
        """As `check`, of a pass that no optimizer followed; parameters are what they were, too."""
        self.check(MEASURED, loss, f"in {what}: ")
        if self.step.update_rule is None:
            self._check_parameters(what)

    def _check_first(self, loss: Tensor) -> None:
        """In values, which the record keeps."""
        outcome = gradients.outcome_of(self.step, loss)
        promise = self.promise
        self.comparison = gradients.compare(self.seen.first, outcome, self.buffers_apart)
        self.first_loss = loss.item()
        self.report(self.comparison.problem(exact=promise.exact, rounded=promise.rounded))
        if self._judge is not None:
            self.apart = distance(self._judge.right, outcome.gradients)
        self.seen = self.seen.without_gradients()

    def _problems(self, trace: Trace, loss: Tensor) -> Iterator[str | None]:
        found = {n: p.grad for n, p in self.step.model.named_parameters()}
        near = functools.partial(close, most=self.buffers_apart)
        same = near if self.promise.rounded else same_bits
        if not self.promise.exact and trace.drift is not None:
            same = functools.partial(close, most=_DRIFT)
        yield self._loss_problem(trace, loss)
        yield self._gradient_problem(trace, found)
        if not all_kept(trace.buffers, dict(self.step.model.named_buffers()), same):
            yield "buffers (running statistics) differ"
        if not same_states(trace.random_state, generators.states(self.step.device)):
            yield "the random state differs"

    def _loss_problem(self, trace: Trace, loss: Tensor) -> str | None:
        if digest(loss) == trace.loss_digest:
            return None
        wrong = f"the loss is {loss.item()!r} instead of {trace.loss!r}"
        if self.seen.precise is None or not loss.isfinite():
            return wrong
        right, first = self.seen.precise.loss.item(), self.seen.first.loss.item()
        rounding = max(abs(first - right), _LOSS_UNITS * unit(self.step.precision) * abs(right))
        # Updates by a gradient that is wrong by e move the loss by 1 ± e times what right ones do.
        floor = self.promise.floor
        moved = (1 + (floor.max_rel_err if floor else 0.0)) * abs(trace.loss - first)
        apart = abs(loss.item() - trace.loss)
        return wrong if apart > (1 + MULTIPLE) * rounding + moved else None

    def _gradient_problem(self, trace: Trace, found: Mapping[str, Tensor | None]) -> str | None:
        own = digests(found.items())
        if own == trace.gradients or own in self._approved:
            return None
        named = _named_problem(trace.gradients, found)
        if named:
            return named
        if self._judge is None:
            return f"the gradient differs: {_listed(unlike(trace.gradients, own))}"
        problem = self._judge.problem(found, trace.drift)
        if problem is None:
            self._approved = [*self._approved[-1:], own]  # what runs again is not judged again
        return problem

    # Around an update.

    def update(self, number: int) -> None:
        """An update after a step, and what it makes of the parameters."""
        self._check_parameters(f"step {number}")
        reference.updated(self.step, self._optimizer)
        self.let_go()
        self._parameters = digests(self.step.model.named_parameters())
        wanted = self.seen.traces[number - 1].parameters
        changed = unlike(wanted, self._parameters) if self.promise.exact else []
        self.parameters_equal &= not changed
        self.report(
            f"after step {number} parameters differ: {_listed(changed)}" if changed else None
        )

    # Of all steps.

    def check_steady(self, peaks_bytes: Sequence[int], forwards: Sequence[int] = ()) -> None:
        """Every step needs as much memory, and runs as many blocks forward, as every other."""
        if peaks_bytes and max(peaks_bytes) > (1 + PEAK_TOLERANCE) * min(peaks_bytes):
            listed = ", ".join(f"{peak:,}" for peak in peaks_bytes)
            self.report(f"the peak changes from step to step: {listed} bytes")
        if len(set(forwards)) > 1:
            listed = ", ".join(map(str, forwards))
            self.report(f"recomputation changes from step to step: {listed} forwards of blocks")


def _named_problem(wanted: Digests, found: Mapping[str, Tensor | None]) -> str | None:
    missing = [n for n, d in wanted.items() if d is not None and found.get(n) is None]
    extra = [n for n, g in found.items() if g is not None and wanted.get(n) is None]
    bad = [n for n, g in found.items() if g is not None and not g.isfinite().all()]
    checks = {
        "no gradient for": missing,
        "a gradient where there is none without the strategy for": extra,
        "the gradient is not finite for": bad,
    }
    return next((f"{what} {_listed(names)}" for what, names in checks.items() if names), None)


def _listed(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
