"""``python -m covered [FILE …] [--long] [--write]``: see `covered`. Ends with 1 below the least."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from covered import runs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="covered", description="What do the tests run?")
    parser.add_argument("files", nargs="*", help="to run; all that are stale, if none")
    parser.add_argument("--long", action="store_true", help="with their long tests")
    parser.add_argument("--none", action="store_true", help="run nothing: what is kept")
    parser.add_argument("--write", action="store_true", help="the outcome, to commit")
    given = parser.parse_args()
    if unknown := set(given.files) - set(runs.test_files()):
        parser.error(f"no test files: {', '.join(sorted(unknown))}")
    return given


def wanted(given: argparse.Namespace) -> Iterator[str]:
    """The test files that are to run."""
    for file in given.files or runs.test_files():
        last = runs.known(file, given.long)
        if not given.none and (last is None or given.files or not last.is_fresh):
            yield file


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    given = arguments()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(partial(runs.run, long=given.long), wanted(given)):
            say(f"{done.test_file}: {done.passed} passed, {done.failed} failed")
    outcome = runs.outcome()
    if given.write:
        outcome.write()
    for root in outcome.roots:
        for what, (count, of) in outcome.shares(root).items():
            say(f"{root}: {count / of:.2%} of {of:,} {what}")
    faults = list(outcome.faults())
    for fault in faults:
        say(fault)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
