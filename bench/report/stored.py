"""What tables, figures and the page are made from, read from a folder of results; its tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from bench.report import (
    budgets,
    claims,
    clusters,
    coverage,
    growth,
    modelled,
    models,
    pays,
    peers,
    promises,
    published,
    solvers,
    tables,
    validations,
)
from bench.report.frame import build
from bench.store import budgets as studies
from bench.store import clusters as cluster_studies
from bench.store import coverage as coverage_studies
from bench.store import models as model_studies
from bench.store import peers as peer_runs
from bench.store import promises as promise_studies
from bench.store import published as published_points
from bench.store import solvers as solver_records
from bench.store import timelines as timeline_studies
from bench.store import validations as device_validations
from bench.store.records import Record, decode, read_all
from bench.store.records import paths as record_paths

Read = TypeVar("Read")


@dataclasses.dataclass(frozen=True)
class Stored:
    """What tables and figures are made from.

    Attributes:
        records: of cells.
        budgets: studies of budgets.
        solvers: studies of what solvers cost.
        models: studies of real architectures.
        promises: studies of budgets that were promised to training loops.
        coverage: studies of what intervals cover.
        published: measurements of GPU memory that others published.
        clusters: studies of ranks.
        validations: simulated devices beside real ones.
        timelines: of single steps; the page shows them, and no table.
        peers: records of other people's implementations, and of ours beside them.
        timed: runs that time these side by side.
        pays: records of steps with checkpoints and without, model by model.
    """

    records: Sequence[Record]
    budgets: Sequence[studies.Study] = ()
    solvers: Sequence[solver_records.Study] = ()
    models: Sequence[model_studies.Study] = ()
    promises: Sequence[promise_studies.Study] = ()
    coverage: Sequence[coverage_studies.Study] = ()
    published: Sequence[published_points.Point] = ()
    clusters: Sequence[cluster_studies.Study] = ()
    validations: Sequence[device_validations.Validation] = ()
    timelines: Sequence[timeline_studies.Study] = ()
    peers: Sequence[Record] = ()
    timed: Sequence[peer_runs.Run] = ()
    pays: Sequence[Record] = ()

    def empty(self) -> bool:
        """Whether nothing is stored."""
        return not any(getattr(self, field.name) for field in dataclasses.fields(self))

    def judged(self) -> pd.DataFrame:
        """What claims are judged by: every record, whatever table it is in."""
        return build([*self.records, *self.peers, *self.pays])

    def tables(self) -> dict[str, str]:
        """Every table by file name; without a study, nothing is made of it."""
        texts = _texts(build(self.records)) if self.records else {}
        if self.records:
            texts |= _claimed(self.judged(), self.clusters)
        for name, report, values in self._studies():
            if values:
                texts |= {f"{name}.md": report.markdown(values), f"{name}.csv": report.csv(values)}
        if self.solvers:
            texts |= {"solvers.md": solvers.table(self.solvers)}
        if self.coverage:
            texts |= {"coverage.md": coverage.markdown(self.coverage)}
        if self.peers:
            texts |= {"peers.md": peers.markdown(self.peers, self.timed)}
            texts |= {"peers.csv": peers.csv(self.peers)}
        if self.pays:
            texts |= {"pays.md": pays.markdown(self.pays)}
        return texts

    def _studies(self) -> tuple[tuple[str, Any, Sequence[Any]], ...]:
        """Those with a table and its CSV, and the module that makes both."""
        return (
            ("budgets", budgets, self.budgets),
            ("models", models, self.models),
            ("promises", promises, self.promises),
            ("published", published, self.published),
            ("clusters", clusters, self.clusters),
            ("validations", validations, self.validations),
        )


def _texts(frame: pd.DataFrame) -> dict[str, str]:
    """Tables of the records, by file name."""
    return {
        "tradeoff.md": tables.tradeoff(frame),
        "tradeoff.csv": tables.tradeoff_csv(frame),
        "depth.md": growth.table(frame),
        "depth.csv": growth.csv(frame),
        "calibration.md": modelled.calibration(frame),
        "simulator.md": modelled.simulator(frame),
        "failures.md": tables.failures(frame),
    }


def _claimed(frame: pd.DataFrame, ranks: Sequence[cluster_studies.Study]) -> dict[str, str]:
    """The ledger, which judges the textbook's own code among the peers, and ranks."""
    return {
        "claims.md": claims.markdown(frame, ranks),
        "claims.json": claims.as_json(frame, ranks),
    }


def read(results: Path) -> Stored:
    """What is stored; files that cannot be read are set aside."""
    return Stored(
        list(read_all(results)),
        list(studies.read_all(results)),
        list(solver_records.read_all(results)),
        list(model_studies.read_all(results)),
        list(promise_studies.read_all(results)),
        list(coverage_studies.read_all(results)),
        list(published_points.read_all(results)),
        list(cluster_studies.read_all(results)),
        list(device_validations.read_all(results)),
        list(timeline_studies.read_all(results)),
        list(read_all(peer_runs.within(results))),
        list(peer_runs.read_all(peer_runs.within(results))),
        list(read_all(pays.within(results))),
    )


def read_strictly(results: Path, bad: list[str]) -> Stored:
    """The same; a check must not rename what it checks. What cannot be read goes to ``bad``."""
    return Stored(
        _strictly(sorted((results / "raw").rglob("*.json")), decode, bad),
        _strictly(studies.paths(results), studies.decode, bad),
        _strictly(solver_records.paths(results), solver_records.decode, bad),
        _strictly(model_studies.paths(results), model_studies.decode, bad),
        _strictly(promise_studies.paths(results), promise_studies.decode, bad),
        _strictly(coverage_studies.paths(results), coverage_studies.decode, bad),
        _strictly(published_points.paths(results), published_points.decode, bad),
        _strictly(cluster_studies.paths(results), cluster_studies.decode, bad),
        _strictly(device_validations.paths(results), device_validations.decode, bad),
        _strictly(timeline_studies.paths(results), timeline_studies.decode, bad),
        _strictly(record_paths(peer_runs.within(results)), decode, bad),
        _strictly(peer_runs.paths(peer_runs.within(results)), peer_runs.decode, bad),
        _strictly(record_paths(pays.within(results)), decode, bad),
    )


def _strictly(paths: Sequence[Path], read: Callable[[bytes], Read], bad: list[str]) -> list[Read]:
    """What files hold; those that cannot be read go to ``bad``, a sentence each."""
    values = []
    for path in paths:
        try:
            values.append(read(path.read_bytes()))
        except ValueError as error:
            bad.append(f"{path}: {error}")
    return values
