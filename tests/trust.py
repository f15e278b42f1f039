"""What the tests inject, counted: makes ``docs/trust.md``. ``python tests/trust.py [--check]``."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import injections
import misbehaving
from covered.outcome import Outcome
from mutants import outcome

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "trust.md"

SECTIONS = {
    "test_injections": "Sweeps and records",
    "test_misbehaving": "A cell's process",
    "test_faults": "Wrong strategies",
    "test_mutations": "Faults in the project's own code",
}
HEAD = """\
# What happens when things go wrong

Made by `python tests/trust.py` from the tests and from what they say of mutants and
of coverage; a test holds it to them.

**The promise**: finished cells are kept, byte for byte; nothing half-written is trusted; the next
run of the same command completes, and its records equal those of a run that nothing happened to.

- A cell runs in a process of its own, in a session of its own. It is waited for as a process, so
  its time limit is kept and its crash seen at once, whatever becomes of the pipe that its answer
  comes through. Its answer is framed by a key and a digest: anything else is a `crash`. What it has
  started ends with it, and it ends with the run, also when one of them is killed or stopped.
- `oom` is what the exception's type says, the kernel, an allocator's whole sentence, or the last
  words of a process that died of it; what fails while it is handled is `oom`, too. Words about
  memory in another error are a `crash`. A reason is one printable line of at most 1,000 characters.
- A record is written to a temporary file, forced to disk and renamed. It carries a checksum over
  its values (older ones have none, and are read); reading checks types, ranges and names. What
  fails is set aside under another name with a warning; what a newer program wrote is left alone.
- Boundaries on disk rest in files without names (Linux), or in a folder that their process holds a
  lock on; folders that nobody holds are removed when the next process rests boundaries there.
- Whether results can be stored is tried before anything is measured.

What is *not* promised: that a failed cell is tried again (its record is an answer; delete it to
measure anew), and that a file from before there were checksums shows every flipped bit.

Numbers on the command line take the digits 0 to 9 and must be within 64 bits; a time limit is more
than zero and at most a week; a parameter or option that is given twice is refused, but `--set` wins
over what the strategy's own text says. A budget of more than 100 % is one: nothing is recomputed.
`slots=0` lets `optimal` choose how finely it counts. In CSV, text that a spreadsheet would
calculate stands behind an apostrophe.

## Injected, and asserted

*short*: of them, in every run of the tests; the others run with `--long`.
"""


def tests_of(module: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Its own test functions, in the order of the file."""
    for name, value in vars(module).items():
        if name.startswith("test_") and inspect.isfunction(value):
            yield name.removeprefix("test_").replace("_", " "), value


def marks_of(thing: Any) -> list[Any]:
    return list(getattr(thing, "pytestmark", []))


def is_long(case: Any) -> bool:
    return any(mark.name == "long" for mark in getattr(case, "marks", ()))


def counts(test: Callable[..., Any]) -> tuple[int, int]:
    """How many cases a test has, and how many of them a short run."""
    marks = marks_of(test)
    cases = [list(mark.args[1]) for mark in marks if mark.name == "parametrize"]
    whole = math.prod(map(len, cases))
    short = math.prod(sum(not is_long(case) for case in some) for some in cases)
    return whole, 0 if any(mark.name == "long" for mark in marks) else short


def section(name: str, title: str) -> Iterator[str]:
    rows = [(text, *counts(test)) for text, test in tests_of(importlib.import_module(name))]
    whole, short = (sum(row[place] for row in rows) for place in (1, 2))
    yield f"### {title}: {whole} ({short} short)\n"
    yield f"`tests/{name}.py`\n"
    yield "| what | cases | short |\n| --- | --- | --- |"
    yield "\n".join(f"| {text} | {one} | {few} |" for text, one, few in rows) + "\n"


def names() -> Iterator[str]:
    """What is injected, by name."""
    ways = [name for name, value in vars(misbehaving).items() if _is_way(value)]
    yield "## By name\n"
    yield f"Into a sweep: {'; '.join(injections.INSIDE)}.\n"
    signals = ", ".join(f"`{name}`" for name in injections.SIGNALS)
    yield f"Sent to a sweep: {signals}, with {_listed(injections.MOMENTS)} records stored.\n"
    yield f"Done by a cell's process: {'; '.join(w.replace('_', ' ') for w in ways)}.\n"
    yield f"Put in place of a record: {'; '.join(injections.HOSTILE)}.\n"


def _listed(values: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, values[:-1]))} and {values[-1]}"


def _is_way(value: Any) -> bool:
    own = inspect.isfunction(value) and value.__module__ == misbehaving.__name__
    return own and list(inspect.signature(value).parameters) == ["payload"]


def text() -> str:
    """The page."""
    parts = [HEAD]
    for name, title in SECTIONS.items():
        parts += section(name, title)
    mutants = outcome.Reading(outcome.Outcome.read()).section()
    return "\n".join([*parts, *names(), *Outcome.read().section(), *mutants])


def main() -> int:
    if "--check" in sys.argv[1:]:
        stale = PAGE.read_text() != text()
        sys.stdout.write(f"{PAGE}: stale; run python tests/trust.py\n" if stale else "")
        return int(stale)
    PAGE.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
