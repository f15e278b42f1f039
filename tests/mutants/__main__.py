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

from mutants.killers import Killers, is_about, is_compiled, preload, test_files
from mutants.outcome import Judged, Outcome, Reading, judged
from mutants.population import ROOT, Mutant, files, mutants, places, spread
from mutants.runs import COMPILED, PLAIN, Tree, Verdict
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
        self.recorded: dict[tuple[str, ...], dict[str, Any]] = {}
        preload([])
        self.tree.warm()

    @property
    def digest(self) -> str:
        """Of the tests that there are."""
        some = [f"{test}\0{(ROOT / test).read_text()}" for ring in self.rings for test in ring]
        return hashlib.sha256("\0".join(some).encode()).hexdigest()[:16]

    def record(self, test_file: str, mode: str) -> dict[str, Any]:
        """What a file's tests run; and what it imports is from now on there for all."""
        if (test_file, mode) not in self.recorded:
            started_s = time.monotonic()
            record = self.recorded[test_file, mode] = self.tree.record(test_file, mode)
            took_s = time.monotonic() - started_s
            say(f"{test_file}, {mode}: {len(record['seconds'])} tests, {took_s:.0f} s")
            preload(list(self.recorded.values()))
        return self.recorded[test_file, mode]

    def judge(self, mutant: Mutant) -> Verdict:
        """What tests say of a mutant."""
        compiled, tests = is_compiled(mutant.file), 0
        mode = PLAIN if compiled else COMPILED
        for ring in self.rings:
            some = [test for test in ring if not compiled or is_about(test, mutant.file)]
            killers = Killers({test: self.record(test, mode) for test in some})
            verdict = self.tree.judge(mutant, killers, mode)
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
