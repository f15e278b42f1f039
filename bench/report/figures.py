"""Every figure, by file name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from bench.report import (
    canvas,
    coverage,
    display,
    growth,
    plane,
    promises,
    published,
    solvers,
    staircase,
)
from bench.report import (
    clusters as cluster_report,
)
from bench.report.contest_figure import figure as contest_figure
from bench.report.depth import by_chain, series
from bench.report.display import Look
from bench.report.frame import Row, groups
from bench.report.pays import figure as pays_figure
from bench.store import clusters as cluster_studies
from bench.store import contests as contest_studies
from bench.store import coverage as coverage_studies
from bench.store import promises as promise_studies
from bench.store import solvers as solver_records
from bench.store.budgets import Study
from bench.store.published import Point
from bench.store.records import Record


def figures(
    frame: pd.DataFrame,
    studies: Sequence[Study] = (),
    timed: Sequence[solver_records.Study] = (),
    kept: Sequence[promise_studies.Study] = (),
    *,
    covered: Sequence[coverage_studies.Study] = (),
    points: Sequence[Point] = (),
    clusters: Sequence[cluster_studies.Study] = (),
    pays: Sequence[Record] = (),
    contests: Sequence[contest_studies.Contest] = (),
) -> dict[str, bytes]:
    """Every figure by file name.

    Args:
        frame: of the records.
        studies: of budgets.
        timed: of solvers.
        kept: of budgets that were promised to training loops.
        covered: of what intervals cover.
        points: measurements that others published.
        clusters: of ranks.
        pays: of steps with checkpoints and without, model by model.
        contests: of `auto` with every contender.
    """
    named = {name for study in studies for name in staircase.strategies_of(study)}
    look = display.looks({*map(str, frame["strategy"]), *named})
    files: dict[str, bytes] = {}
    with canvas.style():
        drawn = (*_planes(frame), *_depths(frame, look), *_staircases(studies, look))
        studied = (*_solvers(timed), *_promises(kept), *_coverage(covered), *_published(points))
        others = (*_clusters(clusters), *_pays(pays), *_contests(contests))
        for name, figure in (*drawn, *studied, *others):
            files |= {f"{name}.{kind}": data for kind, data in canvas.render(figure).items()}
    return files


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower()).strip("-")


def _named(kind: str, key: str, row: Row, used: set[str]) -> str:
    """``memory-time-gpt-mini-cpu``; a digest of the setting tells later ones apart."""
    return _apart(f"{kind}-{_slug(row['workload'])}-{_slug(row['device'])}", key, used)


def _apart(name: str, key: str, used: set[str]) -> str:
    if name in used:
        name += "-" + hashlib.sha256(key.encode()).hexdigest()[:6]
    used.add(name)
    return name


def _planes(frame: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    used: set[str] = set()
    planes = [(plane.points_of(group), group) for group in groups(frame)]
    for points, group in sorted(planes, key=lambda pair: -len(pair[0])):
        if len(points) > 1:
            name = _named("memory-time", group[0]["family"], group[0], used)
            yield name, plane.figure(points)


def _depths(frame: pd.DataFrame, look: Mapping[str, Look]) -> Iterator[tuple[str, Figure]]:
    used: set[str] = set()
    for chain in by_chain(series(frame)):
        yield _named("depth", chain[0].chain, chain[0].first, used), growth.figure(chain, look)


def _solvers(studies: Sequence[solver_records.Study]) -> Iterator[tuple[str, Figure]]:
    if studies:
        yield "solvers", solvers.figure(studies)


def _promises(studies: Sequence[promise_studies.Study]) -> Iterator[tuple[str, Figure]]:
    if any(study.loops for study in studies):
        yield "promises", promises.figure([study for study in studies if study.loops])


def _coverage(studies: Sequence[coverage_studies.Study]) -> Iterator[tuple[str, Figure]]:
    if studies:
        yield "coverage", coverage.figure(studies)


def _published(points: Sequence[Point]) -> Iterator[tuple[str, Figure]]:
    if any(point.error_fraction is not None for point in points):
        yield "published", published.figure(points)


def _clusters(studies: Sequence[cluster_studies.Study]) -> Iterator[tuple[str, Figure]]:
    if any(study.points for study in studies):
        yield "clusters", cluster_report.figure(studies)


def _pays(records: Sequence[Record]) -> Iterator[tuple[str, Figure]]:
    if records:
        yield "pays", pays_figure(records)


def _contests(contests: Sequence[contest_studies.Contest]) -> Iterator[tuple[str, Figure]]:
    if any(contest.entries for contest in contests):
        yield "contests", contest_figure(contests)


def _staircases(studies: Sequence[Study], look: Mapping[str, Look]) -> Iterator[tuple[str, Figure]]:
    used: set[str] = set()
    for study in studies:
        key = f"{study.machine_id} {study.device}"
        yield _apart(f"budgets-{_slug(study.workload)}", key, used), staircase.figure(study, look)
