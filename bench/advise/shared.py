"""``advise --ranks``: what to do about a model on a cluster, by a simulated rank of it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence

import msgspec
import torch

import strategies
from bench.advise.candidates import ATTEMPTS, NONE, SPECS, fastest, line, unsupported
from bench.advise.facts import Setting
from bench.advise.shared_advice import SharedAdvice
from bench.advise.shared_facts import RankCandidate, Smaller
from bench.cells.cell import Cell
from bench.devices import accelerators
from bench.ranks.simulated_plan import LEANEST, on_ranks, smallest_cluster
from bench.ranks.simulated_record import exchange_of, largest
from bench.ranks.simulated_time import interconnect_of
from bench.simulate.peak import peak_event
from strategies import Unsupported

BUDGETED = "optimal"
"""Stands for all that a budget decides, as in ``plan --ranks``."""
SMALLEST = 2
"""Ranks of a cluster."""


def advise(
    cell: Cell, ranks: int | None, room_bytes: int, room: str, specs: Sequence[str] = SPECS
) -> SharedAdvice:
    """Advice for ranks that share a step.

    Args:
        cell: of a simulated device; its way to share is taken, its batch is each rank's own.
        ranks: how many; ``None``: the fewest, a power of two, that hold the model.
        room_bytes: that each rank may take.
        room: what that is.
        specs: strategies to try, besides a plan within the room.

    Raises:
        ValueError: the model cannot be shared so, no cluster holds it, or the catalogue knows no
            link between such devices.
    """
    interconnect_of(accelerators.get(cell.device))
    count = smallest_cluster(cell, room_bytes) if ranks is None else ranks
    shared = on_ranks(cell, count)
    names = dict.fromkeys(strategies.get(spec).spec() for spec in specs)
    candidates = tuple(Rank(shared, room_bytes).candidates(tuple(names)))
    chosen = fastest(candidates)
    spec = chosen.spec if chosen else None
    return SharedAdvice(
        setting=_setting(shared, room_bytes, room),
        ranks=count,
        parallel=shared.parallel,
        candidates=candidates,
        chosen=spec,
        line=line(spec, "batch[0]") if spec and spec != NONE else "",
        command=command(shared, spec) if spec else "",
        smaller=_smaller(cell, count // 2, room_bytes) if ranks is None else None,
    )


@dataclasses.dataclass(frozen=True)
class Rank:
    """One rank of a cluster, under one strategy after another.

    Attributes:
        cell: checked, of several simulated ranks.
        room_bytes: that it may take.
    """

    cell: Cell
    room_bytes: int

    def candidates(self, specs: Sequence[str]) -> Iterator[RankCandidate]:
        """As it is, under each strategy, and, if it does not fit as it is, within the room."""
        plain = self.candidate(NONE)
        yield plain
        for spec in specs:
            yield self._tried(spec, plain)
        if not plain.fits:
            yield self.within(BUDGETED, plain)

    def _tried(self, spec: str, plain: RankCandidate) -> RankCandidate:
        try:
            return self.candidate(spec, plain)
        except Unsupported as error:
            return _unsupported(spec, error)

    def candidate(self, spec: str, plain: RankCandidate | None = None) -> RankCandidate:
        """What ``run`` records of the rank under a strategy.

        Raises:
            Unsupported: the strategy cannot run on this model.
        """
        cell = msgspec.structs.replace(self.cell, spec=spec)
        device = dataclasses.replace(accelerators.get(cell.device), memory_bytes=self.room_bytes)
        rank, fit, times = largest(cell, device)
        recorded = rank.simulation.trace
        plain_s = plain.step_s if plain and plain.step_s else times.step_s
        return RankCandidate(
            spec=spec,
            status=fit.status,
            reason=fit.reason,
            plan=rank.simulation.prepared.schedule.render(),
            peak_allocated_bytes=fit.peak_allocated_bytes,
            peak_reserved_bytes=fit.peak_reserved_bytes,
            recompute_of_forward=recorded.recompute_flops / (recorded.forward_flops or 1),
            step_ratio=times.step_s / plain_s,
            notes=tuple(rank.simulation.prepared.notes),
            by_category=recorded.by_category(peak_event(recorded)),
            step_s=times.step_s,
            waiting_s=times.exposed_s,
            communication_bytes=exchange_of(rank).communication_bytes,
        )

    def within(self, name: str, plain: RankCandidate) -> RankCandidate:
        """A strategy at the largest budget of the room that the allocator can serve."""
        held_bytes, peak_bytes = plain.peak_reserved_bytes or 0, plain.peak_allocated_bytes or 0
        budget_bytes = self.room_bytes - max(0, held_bytes - peak_bytes)
        candidate = None
        for _ in range(ATTEMPTS):
            spec = strategies.get(name, budget=str(max(1, budget_bytes))).spec()
            tried = self._tried(spec, plain)
            if tried.status == "unsupported":
                return candidate or tried
            candidate = tried
            if candidate.fits:
                break
            budget_bytes -= max(1, (candidate.peak_reserved_bytes or 0) - self.room_bytes)
        assert candidate is not None
        return candidate


def _unsupported(spec: str, error: Unsupported) -> RankCandidate:
    return RankCandidate(**vars(unsupported(spec, error)))


def _smaller(cell: Cell, ranks: int, room_bytes: int) -> Smaller | None:
    """Why it is not a smaller cluster."""
    if ranks < SMALLEST:
        return None
    rank = Rank(on_ranks(cell, ranks), room_bytes).candidate(LEANEST)
    return Smaller(ranks=ranks, spec=LEANEST, reserved_bytes=rank.peak_reserved_bytes or 0)


def _setting(cell: Cell, room_bytes: int, room: str) -> Setting:
    return Setting(
        workload=cell.workload,
        options=cell.make_workload().options(),
        device=cell.device,
        product=accelerators.get(cell.device).product,
        modelled=True,
        precision=cell.precision,
        optimizer=cell.optimizer,
        room_bytes=room_bytes,
        room=room,
        torch_version=str(torch.__version__),
    )


def command(cell: Cell, spec: str) -> str:
    """What simulates a rank of the cell under a strategy, to be pasted into a shell."""
    flags = {
        "workload": cell.workload,
        "strategy": spec,
        "device": cell.device,
        "precision": cell.precision,
        "optimizer": cell.optimizer,
        "ranks": str(cell.ranks),
        "set-parallel": cell.parallel,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    # Those that are not the workload's own; and the batch, or each rank would have that.
    options = {**cell.options, "batch": cell.make_workload().options()["batch"]}
    for name, value in options.items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        words += ["--option", f"{name}={text}"]
    return shlex.join(["python", "-m", "bench", "run", *words])
