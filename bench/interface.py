"""The Python interface: ``bench.run``, ``bench.advise``, ``bench.timeline``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import nn

from bench.advise.api import advise, subject
from bench.cells import ROUNDS
from bench.cells.cell import Cell, checked
from bench.devices import default
from bench.report import frame as frames
from bench.report.tables import gradient
from bench.run import executor
from bench.run.here import measure_here
from bench.studies.timeline import profile_cell
from bench.studies.timeline_parts import Profile
from bench.workloads import live
from bench.workloads.base import Batch, Workload
from bench.workloads.live import Loss

__all__ = ["advise", "run", "timeline"]

FIRST = (
    "label", "plan", "peak_allocated_bytes", "peak_x_reference", "recompute_of_forward",
    "step_ratio", "step_ratio_low", "step_ratio_high", "modelled_step_x_reference", "verdict",
    "status", "reason",
)  # fmt: skip
"""Columns that `python -m bench run` prints; the rest of the record follows."""


def run(
    model: nn.Module | str | Workload,
    batch: Batch = None,
    *,
    strategies: Sequence[str] = ("none",),
    device: str | None = None,
    rounds: int = ROUNDS,
    loss: Loss | None = None,
    blocks: Sequence[str] | str | None = None,
    optimizer: str = "none",
    precision: str = "fp32",
    seed: int = 0,
    timeout_s: float = executor.TIMEOUT_S,
    **options: Any,
) -> pd.DataFrame:
    """Measure strategies on one model, as ``python -m bench run`` does.

    Args:
        model: a module, of which a copy is measured in this process; or the name of a workload, or
            a workload, measured in processes of their own.
        batch: see `advise`, also for ``loss`` and ``blocks``.
        strategies: specifications.
        device: here, or a modelled one; default: the accelerator, if there is one.
        rounds: timed rounds; 0 measures no time.
        loss: of a module's output.
        blocks: of a module.
        optimizer: see `bench.cells.optimizers.OPTIMIZERS`.
        precision: see `bench.cells.training.PRECISIONS`.
        seed: of the step's random numbers.
        timeout_s: for each strategy, where it has a process of its own.
        options: of a workload.

    Returns:
        One row a strategy, in their order: what the command prints, then every field of the record
        and every metric. ``verdict`` is of the gradients: ``bitwise equal``, or how far apart.

    Raises:
        ValueError: anything of it is unknown or impossible.
    """
    with subject(model, batch, loss, blocks, options) as workload:
        cells = [
            checked(
                Cell(
                    workload=workload.name,
                    options=workload.options(),
                    spec=spec,
                    device=device or default(),
                    precision=precision,
                    optimizer=optimizer,
                    rounds=rounds,
                    seed=seed,
                )
            )
            for spec in strategies
        ]
        here = live.known(workload.name) is not None
        records = [measure_here(c) if here else executor.run(c, timeout_s) for c in cells]
    return _frame(frames.build(records), [cell.spec for cell in cells])


def _frame(frame: pd.DataFrame, specs: Sequence[str]) -> pd.DataFrame:
    rows = frames.rows(frame)
    verdicts = [gradient(row) if row["status"] == "ok" else row["status"] for row in rows]
    frame = frame.assign(verdict=verdicts)
    places = frame["spec"].map({spec: place for place, spec in enumerate(specs)})
    ordered = frame.loc[places.sort_values().index].reset_index(drop=True)
    return ordered[[*FIRST, *(name for name in ordered.columns if name not in FIRST)]]


def timeline(
    model: nn.Module | str | Workload,
    batch: Batch = None,
    *,
    strategy: str = "none",
    device: str = "cpu",
    loss: Loss | None = None,
    blocks: Sequence[str] | str | None = None,
    optimizer: str = "none",
    precision: str = "fp32",
    **options: Any,
) -> Profile:
    """Memory over one step, as ``python -m bench profile`` draws it; runs in this process.

    Args:
        model: see `run`, also for the others.
        batch: of a module.
        strategy: a specification.
        device: ``cpu`` or a modelled one.
        loss: of a module's output.
        blocks: of a module.
        optimizer: see `bench.cells.optimizers.OPTIMIZERS`.
        precision: see `bench.cells.training.PRECISIONS`.
        options: of a workload.

    Returns:
        ``.timeline`` (bytes by category at every event), ``.facts`` about its peak, and
        ``.paragraph()`` that says them.

    Raises:
        ValueError: anything of it is unknown or impossible.
    """
    with subject(model, batch, loss, blocks, options) as workload:
        cell = Cell(
            workload=workload.name,
            options=workload.options(),
            spec=strategy,
            device=device,
            precision=precision,
            optimizer=optimizer,
            rounds=0,
        )
        return profile_cell(checked(cell))
