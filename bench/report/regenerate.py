"""Everything under ``tables/`` and ``figures/``, and the README's table, from the raw records.

All of it is rendered in memory first, so that a failure leaves what was there. Texts and SVG depend
on the records and on the versions of numpy, pandas, seaborn and matplotlib, which is why continuous
integration, where ``check`` runs, pins them exactly; they do not depend on the CPU (`rounding`,
`canonical`). A PNG is compared by what it shows (`likeness`).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from bench.report import (
    budgets,
    claims,
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
from bench.report import readme as readmes
from bench.report.figures import figures
from bench.report.frame import build
from bench.report.likeness import same
from bench.store import budgets as studies
from bench.store import coverage as coverage_studies
from bench.store import models as model_studies
from bench.store import peers as peer_runs
from bench.store import promises as promise_studies
from bench.store import published as published_points
from bench.store import solvers as solver_records
from bench.store import timelines as timeline_studies
from bench.store import validations as device_validations
from bench.store.json_store import RESULTS, write_atomically
from bench.store.records import Record, decode, read_all
from bench.store.records import paths as record_paths

Read = TypeVar("Read")

TABLES = "tables"
FIGURES = "figures"
README = Path("README.md")
SUFFIXES = frozenset({".csv", ".json", ".md", ".png", ".svg"})
TEXT = frozenset({".csv", ".json", ".md"})


def readme_of(results: Path) -> Path | None:
    """The README here, if these are the results that it shows."""
    return README if README.exists() and results.resolve() == RESULTS.resolve() else None


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
    validations: Sequence[device_validations.Validation] = ()
    timelines: Sequence[timeline_studies.Study] = ()
    peers: Sequence[Record] = ()
    timed: Sequence[peer_runs.Run] = ()
    pays: Sequence[Record] = ()

    def empty(self) -> bool:
        """Whether nothing is stored."""
        return not any(getattr(self, field.name) for field in dataclasses.fields(self))

    def tables(self) -> dict[str, str]:
        """Every table by file name; without a study, nothing is made of it."""
        texts = _texts(build(self.records)) if self.records else {}
        if self.records:
            texts |= _claimed(build([*self.records, *self.peers, *self.pays]))
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
            ("validations", validations, self.validations),
        )


def render(stored: Stored, results: Path, readme: Path | None) -> dict[Path, bytes]:
    """Every generated file with its bytes, by path.

    Args:
        stored: what is to be shown.
        results: the folder to write tables and figures into.
        readme: the README with markers, or ``None`` to leave it out.

    Raises:
        ValueError: a record whose rounds cannot be paired, or a README without markers.
    """
    frame = build(stored.records)
    texts = stored.tables()
    files = {results / TABLES / name: text.encode() for name, text in texts.items()}
    images = figures(
        frame,
        stored.budgets,
        stored.solvers,
        stored.promises,
        covered=stored.coverage,
        points=stored.published,
        pays=stored.pays,
    )
    files |= {results / FIGURES / name: data for name, data in images.items()}
    if readme is not None:
        folder = Path(os.path.relpath(results / TABLES, readme.parent)).as_posix()
        said = [published.sentence(stored.published)] if stored.published else []
        said += [validations.sentence(stored.validations)] if stored.validations else []
        block = readmes.block(frame, folder, {Path(name).stem for name in texts}, said)
        files[readme] = readmes.inject(readme.read_bytes().decode(), block).encode()
    return files


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


def _claimed(frame: pd.DataFrame) -> dict[str, str]:
    """The ledger, which judges the textbook's own code among the peers."""
    return {"claims.md": claims.markdown(frame), "claims.json": claims.as_json(frame)}


def regenerate(results: Path, readme: Path | None, *, check: bool = False) -> list[str]:
    """Write every generated file, and delete generated files that no record asks for any more.

    With ``check`` nothing on disk changes.

    Args:
        results: The folder that holds ``raw`` and the folders of studies.
        readme: The README with markers, or ``None`` to leave it out.
        check: Compare instead of writing.

    Returns:
        What was written or deleted, a line each; with ``check`` how the files on disk differ from
        what the records say: unified diffs of texts, a line for others. Empty means up to date.

    Raises:
        ValueError: no records, or one that cannot be reported.
    """
    bad: list[str] = []
    stored = _strict(results, bad) if check else read(results)
    if stored.empty():
        raise ValueError(f"no records under {results / 'raw'}: measure something first")
    files = render(stored, results, readme)
    stale = sorted(set(_generated(results)) - set(files))
    return bad + _differences(files, stale) if check else _write(files, stale)


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
        list(device_validations.read_all(results)),
        list(timeline_studies.read_all(results)),
        list(read_all(peer_runs.within(results))),
        list(peer_runs.read_all(peer_runs.within(results))),
        list(read_all(pays.within(results))),
    )


def _strict(results: Path, bad: list[str]) -> Stored:
    """The same; a check must not rename what it checks."""
    return Stored(
        _strictly(sorted((results / "raw").rglob("*.json")), decode, bad),
        _strictly(studies.paths(results), studies.decode, bad),
        _strictly(solver_records.paths(results), solver_records.decode, bad),
        _strictly(model_studies.paths(results), model_studies.decode, bad),
        _strictly(promise_studies.paths(results), promise_studies.decode, bad),
        _strictly(coverage_studies.paths(results), coverage_studies.decode, bad),
        _strictly(published_points.paths(results), published_points.decode, bad),
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


def _generated(results: Path) -> list[Path]:
    folders = (results / TABLES, results / FIGURES)
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix in SUFFIXES and not path.name.startswith(".")
    ]


def _write(files: Mapping[Path, bytes], stale: list[Path]) -> list[str]:
    changes = []
    for path, data in files.items():
        if not path.is_file() or not same(path.suffix, path.read_bytes(), data):
            write_atomically(path, data)
            changes.append(f"wrote {path}")
    for path in stale:
        path.unlink()
        changes.append(f"deleted {path}")
    return changes


def _differences(files: Mapping[Path, bytes], stale: list[Path]) -> list[str]:
    differences = [_difference(path, data) for path, data in files.items()]
    return [text for text in differences if text] + [
        f"{path}: stale, no record asks" for path in stale
    ]


def _difference(path: Path, data: bytes) -> str:
    old = path.read_bytes() if path.is_file() else None
    if old is None:
        return f"{path}: missing"
    if same(path.suffix, old, data):
        return ""
    if path.suffix not in TEXT:
        return f"{path}: differs"
    was, now = (text.decode("utf-8", "replace").splitlines(keepends=True) for text in (old, data))
    return "".join(difflib.unified_diff(was, now, str(path), f"{path} (regenerated)"))
