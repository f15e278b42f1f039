"""``python -m mutants [FILE …] [--all]``: see `mutants`. Ends with 1 if something must not be."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from mutants.killers import Killers, test_files
from mutants.outcome import Judged, Outcome, Reading, judged
from mutants.population import ROOT, Mutant, files, mutants, places, spread
from mutants.runs import Tree, Verdict
from mutants.session import Session

WORK = ROOT / "build" / "mutants"
SAMPLE = 300


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutants", description="Which mutants do tests kill?")
    parser.add_argument("files", nargs="*", help="to mutate; all, if none is named")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="how many mutants")
    parser.add_argument("--all", action="store_true", help="all of them: many hours")
    parser.add_argument("--near", action="store_true", help="only tests named after the module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--write", action="store_true", help="the outcome, to commit")
    given = parser.parse_args()
    if unknown := set(given.files) - set(files()):
        parser.error(f"not mutated: {', '.join(sorted(unknown))}; these are: {', '.join(files())}")
    if given.write and given.files:
        parser.error("what is written is of all files")
    return given


class Bench:
    """The copy, and what each test runs of it: of tests that are named after modules, and others.

    Those are recorded when a mutant survives these.
    """

    def __init__(self, rings: int) -> None:
        WORK.mkdir(parents=True, exist_ok=True)
        self.tree = Tree(WORK / "tree")
        self.rings = test_files()[:rings]
        self.recorded: dict[str, dict[str, Any]] = {}
        self.tree.host()

    @property
    def digest(self) -> str:
        """Of the tests that there are, and of the answers that they know."""
        known = sorted((ROOT / "tests/known").iterdir())
        tests = [ROOT / test for ring in self.rings for test in ring]
        some = [f"{path.name}\0{path.read_text()}" for path in (*tests, *known)]
        return hashlib.sha256("\0".join(some).encode()).hexdigest()[:16]

    def record(self, test_file: str) -> dict[str, Any]:
        """What a file's tests run."""
        if test_file not in self.recorded:
            started_s = time.monotonic()
            record = self.recorded[test_file] = self.tree.record(test_file)
            took_s = time.monotonic() - started_s
            say(f"{test_file}: {len(record['seconds'])} tests, {took_s:.0f} s")
        return self.recorded[test_file]

    def judge(self, mutant: Mutant) -> Verdict:
        """What tests say of a mutant."""
        tests = 0
        for ring in self.rings:
            killers = Killers({test: self.record(test) for test in ring})
            verdict = self.tree.judge(mutant, killers)
            tests += verdict.tests
            if verdict.killed_by:
                break
        return dataclasses.replace(verdict, tests=tests)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def answers(sample: Iterable[Mutant], near: bool) -> Iterator[Judged]:
    """Each mutant with its verdict, which is looked up or found, and said."""
    bench = Bench(rings=1 if near else 2)
    session = Session(WORK / "session.sqlite", bench.tree.digest, bench.digest)
    for number, mutant in enumerate(sample, 1):
        verdict = session.known(mutant)
        if verdict is None:
            verdict = bench.judge(mutant)
            session.store(mutant, verdict)
        said = verdict.killed_by or f"SURVIVES: {mutant.before!r} → {mutant.after!r}"
        say(f"{number} {mutant.file}:{mutant.lines.start}: {said}")
        yield judged(mutant, verdict)


def main() -> int:
    given = arguments()
    os.chdir(ROOT)
    every = places(given.files or files())
    order = mutants(spread(every, given.seed))
    sample = itertools.islice(order, None if given.all else given.sample)
    found = tuple(answers(sample, given.near))
    reading = Reading(outcome := Outcome(len(every), given.seed, given.near, found))
    if given.write:
        outcome.after(Outcome.read()).write()
    score = reading.score()
    low, high = score.interval
    say(f"{score.killed} of {score.all} killed, {score.equivalent} are equivalent:")
    say(f"{score.share:.1%} of the others [{low:.1%}, {high:.1%}]")
    faults = list(reading.faults())
    for fault in faults:
        say(fault)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
