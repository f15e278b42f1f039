"""``python -m mutants [FILE …] [--all]``: see `mutants`. Ends with 1 if something must not be."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
import time
from typing import Any

from mutants.killers import Killers, is_about, is_compiled, preload, test_files
from mutants.outcome import Outcome, Reading, judged
from mutants.population import ROOT, Mutant, files, mutants, places, spread
from mutants.runs import COMPILED, PLAIN, Tree
from mutants.session import Session

WORK = ROOT / "build" / "mutants"
SAMPLE = 300


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutants", description="Which mutants do tests kill?")
    parser.add_argument("files", nargs="*", help="to mutate; all, if none is named")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="how many mutants")
    parser.add_argument("--all", action="store_true", help="all of them: many hours")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--write", action="store_true", help="the outcome, to commit")
    given = parser.parse_args()
    if unknown := set(given.files) - set(files()):
        parser.error(f"not mutated: {', '.join(sorted(unknown))}; these are: {', '.join(files())}")
    if given.write and given.files:
        parser.error("what is written is of all files")
    return given


class Bench:
    """The copy, and what each test runs of it."""

    def __init__(self) -> None:
        WORK.mkdir(parents=True, exist_ok=True)
        self.tree = Tree(WORK / "tree")
        preload([])
        records: dict[str, dict[str, Any]] = {}
        for file in test_files():
            records[file] = self._record(file, COMPILED)
            preload(list(records.values()))
        compiled = list(filter(is_compiled, files()))
        near = [test for test in records if any(is_about(test, file) for file in compiled)]
        plain = {test: self._record(test, PLAIN) for test in near}
        self.killers = {COMPILED: Killers(records), PLAIN: Killers(plain)}
        known = json.dumps([self.tree.digest, records, plain], sort_keys=True)
        self.digest = hashlib.sha256(known.encode()).hexdigest()[:16]

    def _record(self, file: str, mode: str) -> dict[str, Any]:
        started_s = time.monotonic()
        record = self.tree.record(file, mode)
        say(f"{file}, {mode}: {len(record['seconds'])} tests, {time.monotonic() - started_s:.0f} s")
        return record

    def judge(self, mutant: Mutant) -> Any:
        """What tests say of a mutant."""
        mode = PLAIN if is_compiled(mutant.file) else COMPILED
        return self.tree.judge(mutant, self.killers[mode], mode)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    given = arguments()
    os.chdir(ROOT)
    bench = Bench()
    session = Session(WORK / "session.sqlite", bench.tree.digest, bench.digest)
    every = places(given.files or files())
    order = mutants(spread(every, given.seed))
    answers = []
    for mutant in itertools.islice(order, None if given.all else given.sample):
        started_s = time.monotonic()
        verdict = session.known(mutant)
        if verdict is None:
            verdict = bench.judge(mutant)
            session.store(mutant, verdict)
        answers.append(judged(mutant, verdict))
        said = verdict.killed_by or f"SURVIVES: {mutant.before!r} → {mutant.after!r}"
        where = f"{mutant.file}:{mutant.lines.start}"
        say(f"{len(answers)} {where}: {said} ({time.monotonic() - started_s:.1f} s)")
    reading = Reading(outcome := Outcome(len(every), given.seed, tuple(answers)))
    if given.write:
        outcome.write()
    low, high = reading.score().interval
    say(f"{reading.score()}: {reading.score().share:.1%} [{low:.1%}, {high:.1%}]")
    faults = list(reading.faults())
    for fault in faults:
        say(fault)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
