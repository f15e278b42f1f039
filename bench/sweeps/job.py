"""One job of a sweep: what runs on the machine that measures.

submitit pickles the call. It is a `Job` of text and numbers, which says *which* cells: that machine
makes them itself, for their names hold its own hardware. What a job returns is not read. It leaves
records, and a receipt that says where they are; both are JSON, written atomically.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from bench import devices
from bench.cells.cell import Cell
from bench.run import executor, sweep
from bench.store import records
from bench.store.json_store import write_atomically
from bench.store.records import Record
from bench.sweeps import lock
from bench.sweeps.division import Part, divided

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_LOOK_S = 0.2
_GRACE_S = 600.0  # more than Slurm lets pass between SIGTERM and SIGKILL


@dataclasses.dataclass(frozen=True)
class Job:
    """Some cells of a suite. Called again, it measures what has no record yet.

    Attributes:
        suite: its name.
        device: of the cells that are not simulated; empty: what the machine has.
        results: the folder that records go to; every machine must see it.
        receipt: the file that names the records that there are.
        part: of the suite.
        number: of the job in the part, from 0.
        of: into how many the part is divided at most.
        timeout_s: for one cell.
        parent: process on this machine that the job ends with; 0: none.
    """

    suite: str
    device: str
    results: str
    receipt: str
    part: str
    number: int
    of: int
    timeout_s: float
    parent: int = 0

    def __call__(self) -> None:
        """Measure; every record is on disk before the receipt names it."""
        if self.parent:
            _end_with(self.parent)
        results, signed = Path(self.results), list[str]()

        def sign(_done: int, _total: int, record: Record) -> None:
            signed.append(records.path_of(record, results).relative_to(results).as_posix())
            write_atomically(Path(self.receipt), msgspec.json.encode(signed))

        grace_s = 0.0 if self.parent else _GRACE_S
        with _ending_quietly(grace_s), lock.held(alone=self.part == Part.timed):
            sweep.run(self.cells(), results, sign, timeout_s=self.timeout_s, measure=executor.run)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit puts into the queue again when the time of this job is over: the same."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415 - an extra

        return DelayedSubmission(self)

    def cells(self) -> list[Cell]:
        """What is to be measured, as this machine makes it."""
        suite = sweep.cells_of(self.suite, self.device or devices.default())
        return divided(suite, Part(self.part), self.of)[self.number]

    def signed(self) -> list[str]:
        """The records that there are, below the results; of a job called again, again."""
        path = Path(self.receipt)
        return msgspec.json.decode(path.read_bytes(), type=list[str]) if path.exists() else []


@contextlib.contextmanager
def _ending_quietly(grace_s: float) -> Iterator[None]:
    """At SIGTERM, store nothing more: who ends this job has signalled its cells, too.

    A cell that dies of it is no crash. Slurm puts back what it preempts, if that is still there.
    """

    def end(_signal: int, _frame: object) -> None:
        time.sleep(grace_s)
        raise SystemExit(1)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_with(parent: int) -> None:
    """Kill this process when another one is gone: nobody waits for it any more."""

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(parent)
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(_LOOK_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
