"""What is known of mutants, in the session file of Cosmic Ray, whose reports read it too."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

from mutants.population import Mutant
from mutants.runs import Verdict


class Session:
    """Verdicts, of which only those count that the same tests on the same sources would give.

    A mutant that was killed is, as long as nothing but tests has changed.
    """

    def __init__(self, path: Path, sources: str, tests: str) -> None:
        self.database = WorkDB(path, WorkDB.Mode.create)
        self.sources, self.tests = sources, tests
        self.results = dict(self.database.results)
        self.items = {item.job_id for item in self.database.work_items}

    def known(self, mutant: Mutant) -> Verdict | None:
        """What was said of it."""
        result = self.results.get(_job(mutant))
        if result is None:
            return None
        stored = json.loads(str(result.output))
        killed = result.test_outcome is TestOutcome.KILLED
        current = stored["sources"] == self.sources and (killed or stored["tests"] == self.tests)
        return Verdict(**stored["verdict"]) if current else None

    def store(self, mutant: Mutant, verdict: Verdict) -> None:
        """Keep it."""
        job = _job(mutant)
        if job not in self.items:
            self.database.add_work_item(WorkItem.single(job, mutant.spec))
            self.items.add(job)
        stored = {"sources": self.sources, "tests": self.tests}
        result = WorkResult(
            worker_outcome=WorkerOutcome.NORMAL,
            output=json.dumps(stored | {"verdict": dataclasses.asdict(verdict)}),
            test_outcome=TestOutcome.KILLED if verdict.killed_by else TestOutcome.SURVIVED,
            diff=f"- {mutant.before}\n+ {mutant.after}",
        )
        self.database.set_result(job, result)


def _job(mutant: Mutant) -> str:
    return hashlib.sha256(f"{mutant.file}\0{mutant.text}".encode()).hexdigest()
