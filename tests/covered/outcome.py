"""What tests run of the project: stored, judged, and as a page's section. Needs no coverage."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

OUTCOME = Path(__file__).parent / "outcome.json"
LEAST = {"lines": 0.95, "branches": 0.90}
"""Of each folder."""
MEASURED = """\
`nox -s coverage` runs each test file by itself and counts the lines and branches that it runs, in
processes that it starts, too. What only another system or a compiler runs does not count, nor do
the benchmarks in `bench/test_*.py`.
"""


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of a file."""

    file: str
    lines: int
    lines_of: int
    branches: int
    branches_of: int

    @property
    def folder(self) -> str:
        """``bench/cli/plan.py`` → ``bench/cli``; files of ``bench`` itself are in ``bench``."""
        return "/".join(Path(self.file).parent.parts[:2])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of all runs.

    Attributes:
        day: when it was put together.
        test_files: that there are.
        short: how many of them ran.
        long: those that ran with their long tests.
        earlier: how many ran on other sources or tests; they count only for sources that did not
            change since.
        passed: tests.
        failed: by test file, how many.
        counts: of each source.
    """

    day: str
    test_files: int
    short: int
    long: Sequence[str]
    earlier: int
    passed: int
    failed: dict[str, int]
    counts: tuple[Counts, ...]

    @classmethod
    def read(cls, path: Path = OUTCOME) -> Outcome:
        """What was committed."""
        raw = json.loads(path.read_text())
        return cls(**raw | {"counts": tuple(Counts(*one) for one in raw["counts"])})

    def write(self, path: Path = OUTCOME) -> None:
        """To commit."""
        raw: dict[str, Any] = dataclasses.asdict(self)
        raw["counts"] = [list(dataclasses.astuple(one)) for one in self.counts]
        rows = ",\n  ".join(json.dumps(one) for one in raw.pop("counts"))
        head = json.dumps(raw, indent=1).removesuffix("\n}")
        path.write_text(f'{head},\n "counts": [\n  {rows}\n ]\n}}\n')

    def shares(self, folder: str) -> dict[str, tuple[int, int]]:
        """Lines and branches under a folder that are run, and how many there are."""
        some = [one for one in self.counts if f"{one.file}/".startswith(f"{folder}/")]
        lines = sum(one.lines for one in some), sum(one.lines_of for one in some)
        branches = sum(one.branches for one in some), sum(one.branches_of for one in some)
        return {"lines": lines, "branches": branches}

    @property
    def roots(self) -> list[str]:
        """The folders that are judged."""
        return sorted({one.file.partition("/")[0] for one in self.counts}, reverse=True)

    def faults(self) -> Iterator[str]:
        """What must not be."""
        for root in self.roots:
            for what, (done, of) in self.shares(root).items():
                if done < LEAST[what] * of:
                    yield f"{done / of:.1%} of the {what} of {root}; at least {LEAST[what]:.0%}"
        for file, failed in sorted(self.failed.items()):
            yield f"{file}: {failed} failed"

    def section(self) -> Iterator[str]:
        """Of ``docs/trust.md``."""
        yield "## Lines and branches\n"
        yield MEASURED
        yield f"{self._scope()}\n"
        yield "| folder | lines | run | branches | run |"
        yield "| --- | --- | --- | --- | --- |"
        for root in self.roots:
            yield self._row(root, bold="**")
            yield from (
                self._row(folder)
                for folder in sorted({one.folder for one in self.counts} - {root})
                if folder.startswith(f"{root}/")
            )
        yield ""

    def _scope(self) -> str:
        text = f"{self.day}: {self.short} of {self.test_files} test files, {self.passed:,} tests"
        text += f"; long ones of {len(self.long)} files." if self.long else "; no long ones."
        if self.earlier:
            text += (
                f" {self.earlier} ran before the last change of a source or of their tests, and do"
                " not count for what changed since."
            )
        if self.failed:
            text += f" Failed: {sum(self.failed.values())} in {', '.join(sorted(self.failed))}."
        return text

    def _row(self, folder: str, bold: str = "") -> str:
        cells = [f"{bold}`{folder}`{bold}"]
        for done, of in self.shares(folder).values():
            cells += [f"{of:,}", f"{bold}{done / of:.1%}{bold}" if of else "–"]
        return f"| {' | '.join(cells)} |"
