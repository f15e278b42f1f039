"""A test file under coverage: what it ran, kept, with the digests of what it ran on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from coverage import Coverage
from coverage.data import CoverageData

from covered.outcome import Counts, Outcome

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("strategies", "bench")
WORK = ROOT / "build" / "coverage"
MOST_S = 3600
_SUMMARY = re.compile(r"(\d+) (passed|failed|error)")


@functools.cache
def digest(path: Path) -> str:
    """Of a file that is there; empty of one that is not."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""


def sources() -> dict[str, str]:
    """The digest of each file that is counted: benchmarks are none of the project's own tests."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    own = [path for path in paths if not path.name.startswith("test_")]
    return {str(path.relative_to(ROOT)): digest(path) for path in own}


def test_files() -> list[str]:
    """All of them."""
    return [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/test_*.py"))]


@dataclasses.dataclass(frozen=True)
class Run:
    """Of a test file, short or with its long tests.

    Attributes:
        test_file: of the project.
        long: with those, too.
        passed: how many tests.
        failed: how many, errors included; those that ended early ran fewer lines.
        test_digest: of the test file.
        source_digests: of the sources that there were.
    """

    test_file: str
    long: bool
    passed: int
    failed: int
    test_digest: str
    source_digests: dict[str, str]

    @property
    def is_fresh(self) -> bool:
        """Nothing has changed since."""
        same = self.test_digest == digest(ROOT / self.test_file)
        return same and self.source_digests == sources()

    @property
    def data(self) -> Path:
        """Where it is kept what it ran."""
        return data_of(self.test_file, self.long)

    def valid(self) -> CoverageData:
        """What it ran of sources that are as they were."""
        data = CoverageData(str(self.data))
        data.read()
        then, now = self.source_digests, sources()
        names = {name: str(Path(name).relative_to(ROOT)) for name in data.measured_files()}
        stale = [x for x, name in names.items() if then.get(name) != now.get(name)]
        copy = CoverageData(no_disk=True)
        copy.update(data)
        if stale:
            copy.purge_files(stale)
        return copy


def data_of(test_file: str, long: bool) -> Path:
    """The file for what a test file runs; beside it is what is known of the run."""
    return WORK / f"{Path(test_file).stem}{'-long' if long else ''}.data"


def known(test_file: str, long: bool) -> Run | None:
    """The last run, if there is one."""
    file = data_of(test_file, long).with_suffix(".json")
    return Run(**json.loads(file.read_text())) if file.exists() else None


def run(test_file: str, long: bool) -> Run:
    """Run it, and keep what it ran, its own processes included."""
    data = data_of(test_file, long)
    parts = data.with_suffix(".parts")
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    env = os.environ | {"COVERAGE_FILE": str(parts / "data")}
    before = sources()
    command = ["run", "-m", "pytest", "-q", "-p", "no:cacheprovider", *(["--long"] if long else [])]
    with data.with_suffix(".log").open("w") as log:
        _coverage(*command, test_file, env=env, stdout=log, stderr=subprocess.STDOUT)
    # Of the folder: a process that ends after the tests may just now write or rename its file.
    _coverage("combine", "--quiet", "--data-file", str(parts / "data"), str(parts), check=True)
    (parts / "data").replace(data)
    shutil.rmtree(parts, ignore_errors=True)
    last = data.with_suffix(".log").read_text().rstrip().splitlines()[-1]
    count = {what: int(number) for number, what in _SUMMARY.findall(last)}
    failed = count.get("failed", 0) + count.get("error", 0)
    done = Run(test_file, long, count.get("passed", 0), failed, digest(ROOT / test_file), before)
    data.with_suffix(".json").write_text(json.dumps(dataclasses.asdict(done)))
    return done


def _coverage(*arguments: str, check: bool = False, **more: object) -> None:
    command = [sys.executable, "-m", "coverage", *arguments]
    subprocess.run(command, cwd=ROOT, check=check, timeout=MOST_S, **more)


def outcome() -> Outcome:
    """Of all that is kept."""
    runs = [one for x in test_files() for long in (False, True) if (one := known(x, long))]
    file = WORK / "all.data"
    file.unlink(missing_ok=True)
    every = CoverageData(str(file))
    for one in runs:
        every.update(one.valid())
    every.touch_files(str(ROOT / name) for name in sources())  # of which nothing may have run
    every.write()
    return Outcome(
        day=time.strftime("%Y-%m-%d", time.gmtime()),
        test_files=len(test_files()),
        short=len({one.test_file for one in runs}),
        long=sorted(one.test_file for one in runs if one.long),
        earlier=sum(not one.is_fresh for one in runs),
        passed=sum({one.test_file: one.passed for one in runs}.values()),  # long ones come last
        failed={one.test_file: one.failed for one in runs if one.failed},
        counts=tuple(_counts(file)),
    )


def _counts(file: Path) -> Iterator[Counts]:
    """Of each source, those that no test imports too."""
    report, own = file.with_suffix(".json"), sources()
    coverage = Coverage(data_file=str(file), config_file=str(ROOT / "pyproject.toml"))
    coverage.load()
    coverage.json_report(outfile=str(report))
    numbers = ("covered_lines", "num_statements", "covered_branches", "num_branches")
    for name, found in sorted(json.loads(report.read_text())["files"].items()):
        if name in own:
            yield Counts(name, *(found["summary"][number] for number in numbers))
