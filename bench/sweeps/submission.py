"""A suite as jobs of submitit: what is submitted, waited for, and read when it has ended.

What submitit pickles in the folder of the jobs is never opened here: whether a job is done is what
its receipt says, and what it measured are its records.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from bench import devices
from bench.cells.cell import SIMULATED, Cell
from bench.run import sweep
from bench.store import records
from bench.store.records import Record
from bench.sweeps.division import Part, divided
from bench.sweeps.job import Job
from bench.sweeps.resources import Resources, minutes_of, slurm

Cluster = Literal["local", "slurm"]

FOLDER = "jobs"  # in the results
SLURM_JOBS = 8
_LOOK_S = {"local": 0.5, "slurm": 10.0}
_AT_ONCE = 2  # cells that a job measures at a time, where it measures no time


class LostError(Exception):
    """Jobs ended before their cells did."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A suite, and where it is to be measured.

    Attributes:
        suite: its name.
        device: empty: what each machine has.
        results: the folder that records go to.
        cluster: where jobs run.
        jobs: of each part, at most; 0: as many as suit the cluster.
        timeout_s: for one cell.
        resources: of one job, on Slurm.

    Raises:
        ValueError: a negative number of jobs, or no device for machines that are not this one.
    """

    suite: str
    device: str
    results: Path
    cluster: Cluster
    jobs: int = 0
    timeout_s: float = 600.0
    resources: Resources = dataclasses.field(default_factory=Resources)

    def __post_init__(self) -> None:
        if self.jobs < 0:
            raise ValueError(f"jobs must be at least 0, not {self.jobs}")
        if self.cluster == "slurm" and not self.device:
            raise ValueError("which device the machines have is not seen from here: give --device")

    def cells(self) -> list[Cell]:
        """The suite as this machine sees it: of others, how many cells of which kind."""
        here = self.device or devices.default()
        unseen = self.cluster == "slurm" and not here.startswith(SIMULATED)
        return sweep.cells_of(self.suite, "cpu" if unseen else here)

    def jobs_of(self, part: Part) -> int:
        """Into how many jobs a part is divided at most. One machine times in one."""
        if self.cluster == "slurm":
            return self.jobs or SLURM_JOBS
        if part is Part.timed:
            return 1
        return self.jobs or max(1, (os.cpu_count() or 1) // _AT_ONCE)

    def phases(self) -> list[list[Part]]:
        """What runs at the same time: on one machine, one part of the suite after the other."""
        parts = list(Part)
        return [parts] if self.cluster == "slurm" else [[part] for part in parts]


@dataclasses.dataclass(frozen=True)
class Submitted:
    """A job, how many cells it has, and submitit's handle of it."""

    job: Job
    cells: int
    handle: Any


class _News:
    """The records of which receipts say that they are there; each is read once."""

    def __init__(self, results: Path, total: int, progress: sweep.Report) -> None:
        self.records: dict[str, Record] = {}
        self._results, self._total, self._progress = results, total, progress

    def look(self, submitted: Sequence[Submitted]) -> None:
        """Read what is new."""
        for one in submitted:
            for path in one.job.signed():
                if path not in self.records:
                    self._read(path)

    def missing(self, one: Submitted) -> int:
        """Cells of a job without a record that can be read."""
        return one.cells - sum(path in self.records for path in one.job.signed())

    def _read(self, path: str) -> None:
        record = records.read(self._results / path)
        if record is not None:
            self.records[path] = record
            self._progress(len(self.records), self._total, record)


def run(plan: Plan, cells: Sequence[Cell], progress: sweep.Report) -> list[Record]:
    """Measure a suite in jobs; the records, as they came.

    Args:
        plan: what to measure, and where.
        cells: its own (`Plan.cells`).
        progress: is told of every record.

    Raises:
        ValueError: no submitit, no Slurm, or Slurm refuses the job.
        LostError: jobs ended too early; what they had finished is kept.
    """
    news = _News(plan.results, len(cells), progress)
    ended: list[Submitted] = []
    folder = _folder(plan)
    try:
        for parts in plan.phases():
            submitted = submit(plan, parts, cells, folder)
            _wait(submitted, news, _LOOK_S[plan.cluster])
            ended += submitted
        lost = [one for one in ended if news.missing(one)]
    except BaseException:
        _clear(folder)
        raise
    if lost:
        raise LostError(_sentence(lost, news, folder, f"{len(ended)} jobs", len(cells)))
    _clear(folder)
    return list(news.records.values())


def _folder(plan: Plan) -> Path:
    """Of these jobs alone, and where every machine sees it: receipts, logs, and what is pickled."""
    above = plan.results.absolute() / FOLDER
    above.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{plan.suite}-", dir=above))


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # other sweeps have theirs beside it
        folder.parent.rmdir()


def submit(
    plan: Plan, parts: Sequence[Part], cells: Sequence[Cell], folder: Path
) -> list[Submitted]:
    """All jobs of some parts, or none."""
    submitted: list[Submitted] = []
    try:
        for part in parts:
            submitted += _array(plan, part, divided(cells, part, plan.jobs_of(part)), folder)
    except BaseException:
        _cancel(submitted)
        raise
    return submitted


def _array(plan: Plan, part: Part, shares: list[list[Cell]], folder: Path) -> list[Submitted]:
    if not shares:
        return []
    jobs = [_job(plan, part, number, folder) for number in range(len(shares))]
    minutes = minutes_of(shares, plan.timeout_s, plan.resources.minutes)
    executor = _executor(plan.cluster, folder)
    executor.update_parameters(**_parameters(plan, part, minutes))
    try:
        handles = executor.submit_array(jobs)
    except RuntimeError as error:
        reason = _last_line(str(error))
        raise ValueError(f"{plan.cluster} does not take the jobs: {reason}") from error
    return [
        Submitted(job, len(share), handle)
        for job, share, handle in zip(jobs, shares, handles, strict=True)
    ]


def _parameters(plan: Plan, part: Part, minutes: int) -> dict[str, Any]:
    if plan.cluster == "slurm":
        return slurm(part, plan.resources, minutes)
    return {"timeout_min": minutes}


def _job(plan: Plan, part: Part, number: int, folder: Path) -> Job:
    return Job(
        suite=plan.suite,
        device=plan.device,
        results=str(plan.results.absolute()),
        receipt=str(folder / f"{part}-{number}.json"),
        part=part.value,
        number=number,
        of=plan.jobs_of(part),
        timeout_s=plan.timeout_s,
        parent=os.getpid() if plan.cluster == "local" else 0,
    )


def _executor(cluster: Cluster, folder: Path) -> Any:
    try:
        import submitit  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ValueError(
            "jobs need submitit, which is not installed: pip install 'ckpt-bench[slurm]'"
        ) from error
    try:
        return submitit.AutoExecutor(folder=folder, cluster=cluster)
    except RuntimeError as error:
        raise ValueError("there is no Slurm here: srun is not found") from error


def _wait(submitted: Sequence[Submitted], news: _News, look_s: float) -> None:
    pending = list(submitted)
    try:
        while pending:
            pending = [one for one in pending if not one.handle.done()]
            news.look(submitted)  # afterwards: what has ended has signed all that it will
            if pending:
                time.sleep(look_s)
    except BaseException:
        _cancel(submitted)
        raise


def _cancel(submitted: Sequence[Submitted]) -> None:
    for one in submitted:
        with contextlib.suppress(Exception):  # it has ended, or its cluster has
            one.handle.cancel()


def _sentence(lost: Sequence[Submitted], news: _News, folder: Path, of: str, cells: int) -> str:
    left = sum(map(news.missing, lost))
    return (
        f"{len(lost)} of {of} ended early, and {left} of {cells} cells have no record "
        f"({_last_words(lost[0])}); what is finished is kept, and the same command does the rest; "
        f"logs: {folder}"
    )


def _last_words(one: Submitted) -> str:
    """The last line of its log."""
    log = Path(one.handle.paths.stderr)
    text = log.read_text(errors="replace") if log.exists() else ""
    return _last_line(text) or "no last word, as of what is killed"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
