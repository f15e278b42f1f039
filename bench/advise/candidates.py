"""Strategies tried on one step, and the fastest that fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import strategies
from bench.advise.facts import Candidate
from bench.advise.workbench import Workbench
from bench.simulate.run import Simulation
from strategies import Unsupported
from strategies.contract.budgeted import Budgeted

NONE = "none"
SPECS = ("selective(variant=attention_core)", "sqrt", "every_layer", "offload")
"""From least recomputed to most; of those that a budget decides, `BUDGETED` stands for all."""
BUDGETED = "auto"
ATTEMPTS = 4
"""To find a budget whose plan the allocator, which needs more than a plan's tensors, can serve."""
ALIKE = 0.01
"""Of a step: as fast, so that the simpler strategy is taken."""


@dataclasses.dataclass(frozen=True)
class Modelled:
    """Candidates on a device that is not there."""

    bench: Workbench
    plain: Simulation

    @classmethod
    def on(cls, bench: Workbench) -> Modelled:
        """With the step as it is, which all are compared with."""
        return cls(bench, bench.simulate(NONE))

    def candidates(self, specs: Sequence[str]) -> Iterator[Candidate]:
        """As it is, under each strategy, and, if it does not fit as it is, within the room."""
        plain = self._candidate(NONE, self.plain)
        yield plain
        yield from map(self.candidate, specs)
        if not plain.fits:
            yield self.within(BUDGETED)

    def candidate(self, spec: str) -> Candidate:
        """One strategy with its parameters."""
        try:
            return self._candidate(spec, self.bench.simulate(spec))
        except Unsupported as error:
            return unsupported(spec, error)

    def within(self, name: str) -> Candidate:
        """A strategy at the largest budget of the room that the allocator can serve."""
        workspace_bytes = sum(self.bench.workspaces(self.plain.trace))
        budget_bytes = min(self.bench.room_bytes, self.bench.memory_bytes - workspace_bytes)
        candidate = None
        for _ in range(ATTEMPTS):
            spec = strategies.get(name, budget=str(max(1, budget_bytes))).spec()
            try:
                simulation = self.bench.simulate(spec)
            except Unsupported as error:
                return candidate or unsupported(spec, error)
            candidate = self._candidate(spec, simulation)
            if candidate.fits:
                break
            budget_bytes -= self.bench.missing_bytes(simulation.trace)
        assert candidate is not None
        return candidate

    def _candidate(self, spec: str, simulation: Simulation) -> Candidate:
        trace, prepared, device = simulation.trace, simulation.prepared, self.bench.device
        fit = self.bench.fit(trace)
        assert device is not None
        return Candidate(
            spec=spec,
            status="mismatch" if simulation.missing else fit.status,
            reason=_lost(simulation.missing) or fit.reason,
            plan=prepared.schedule.render(),
            peak_allocated_bytes=fit.peak_allocated_bytes,
            peak_reserved_bytes=fit.peak_reserved_bytes,
            recompute_of_forward=trace.recompute_flops / (trace.forward_flops or 1),
            step_ratio=simulation.step_s(device) / self.plain.step_s(device),
            notes=tuple(prepared.notes),
        )


def _lost(parameters: Sequence[str]) -> str | None:
    return f"no gradient for {', '.join(parameters)}" if parameters else None


def unsupported(spec: str, error: Unsupported) -> Candidate:
    """A strategy that says that it cannot."""
    return Candidate(spec, "unsupported", str(error), None, None, None, None, None)


def fastest(candidates: Sequence[Candidate]) -> Candidate | None:
    """The fastest that fits; of those as fast, the first. As it is, if that fits."""
    fitting = [one for one in candidates if one.fits]
    if not fitting or fitting[0].spec == NONE:
        return next(iter(fitting), None)
    least = min(_ratio(one) for one in fitting)
    return next(one for one in fitting if _ratio(one) <= least * (1 + ALIKE))


def leanest(candidates: Sequence[Candidate]) -> Candidate:
    """That with the lowest peak; of equal ones the first."""
    ran = [one for one in candidates if one.peak_allocated_bytes is not None]
    return min(ran, key=lambda one: one.peak_allocated_bytes or 0, default=candidates[0])


def _ratio(candidate: Candidate) -> float:
    """What was not timed is taken to be as slow as what is done again makes it."""
    if candidate.step_ratio is not None:
        return candidate.step_ratio
    return 1 + (candidate.recompute_of_forward or 0) / 3


def line(spec: str, example: str) -> str:
    """Code that puts a model under a strategy.

    Args:
        spec: of the strategy.
        example: an expression for what the model is called with.
    """
    strategy = strategies.get(spec)
    more = f", example={example}" if isinstance(strategy, Budgeted) else ""
    return f"import strategies; strategies.apply(model, {spec!r}{more})"
