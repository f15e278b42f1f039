"""What tables, figures and the page are made from, read from a folder of results; its tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.report import (
    budgets,
    claims,
    clusters,
    contests,
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
from bench.store import contests as contest_studies
from bench.store import coverage as coverage_studies
from bench.store import models as model_studies
from bench.store import peers as peer_runs
from bench.store import promises as promise_studies
from bench.store import published as published_points
from bench.store import records as cell_records
from bench.store import solvers as solver_records
from bench.store import timelines as timeline_studies
from bench.store import validations as device_validations
from bench.store.json_store import JsonStore
from bench.store.records import Record

_STORE, _WITHIN = "store", "within"


def _here(results: Path) -> Path:
    return results


def _of(store: JsonStore[Any], within: Callable[[Path], Path] = _here) -> Any:
    """A field that is read from a store, in a folder within the results."""
    return dataclasses.field(default=(), metadata={_STORE: store, _WITHIN: within})


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
        contests: of `auto` with every contender.
    """

    records: Sequence[Record] = _of(cell_records.STORE)
    budgets: Sequence[studies.Study] = _of(studies.STORE)
    solvers: Sequence[solver_records.Study] = _of(solver_records.STORE)
    models: Sequence[model_studies.Study] = _of(model_studies.STORE)
    promises: Sequence[promise_studies.Study] = _of(promise_studies.STORE)
    coverage: Sequence[coverage_studies.Study] = _of(coverage_studies.STORE)
    published: Sequence[published_points.Point] = _of(published_points.STORE)
    clusters: Sequence[cluster_studies.Study] = _of(cluster_studies.STORE)
    validations: Sequence[device_validations.Validation] = _of(device_validations.STORE)
    timelines: Sequence[timeline_studies.Study] = _of(timeline_studies.STORE)
    peers: Sequence[Record] = _of(cell_records.STORE, peer_runs.within)
    timed: Sequence[peer_runs.Run] = _of(peer_runs.STORE, peer_runs.within)
    pays: Sequence[Record] = _of(cell_records.STORE, pays.within)
    contests: Sequence[contest_studies.Contest] = _of(contest_studies.STORE)

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
            ("contests", contests, self.contests),
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
    return _filled(results, lambda store, folder: list(store.read_all(folder)))


def read_strictly(results: Path, bad: list[str]) -> Stored:
    """The same; a check must not rename what it checks. What cannot be read goes to ``bad``."""
    return _filled(results, lambda store, folder: _strictly(store, folder, bad))


def _filled(results: Path, values_of: Callable[[JsonStore[Any], Path], list[Any]]) -> Stored:
    """Each field with what is in its store, by the folder that the store is in."""
    values = {
        field.name: values_of(field.metadata[_STORE], field.metadata[_WITHIN](results))
        for field in dataclasses.fields(Stored)
    }
    return Stored(**values)


def _strictly(store: JsonStore[Any], folder: Path, bad: list[str]) -> list[Any]:
    """What files hold; those that cannot be read go to ``bad``, a sentence each."""
    values = []
    for path in store.paths(folder):
        try:
            values.append(store.decode(path.read_bytes()))
        except ValueError as error:
            bad.append(f"{path}: {error}")
    return values
