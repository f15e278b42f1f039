"""What came of the mutants: stored, judged with the reasons of survivors, and as a page's section.

Needs no Cosmic Ray.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

OUTCOME = Path(__file__).parent / "outcome.json"
REASONS = Path(__file__).parent / "survivors.toml"
MUTATED = """\
`nox -s mutants` changes single operators, comparisons, numbers, conditions, loops and decorators of
`strategies/schedules` and `strategies/solvers`, and runs on each change the short tests that run
its line. The sample is spread evenly over files, operators and lines. *Equivalent*: it does the
same, or the same more slowly.
"""
LEAST = 0.90
"""Of the mutants that are no equivalents: killed."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """A mutant, and what the tests said.

    Attributes:
        file: of the project.
        definition: the function or class that it is in.
        operator: of Cosmic Ray.
        before: the line.
        after: the line mutated.
        killed_by: see `runs.Verdict`.
        tests: that could see it.
    """

    file: str
    definition: str
    operator: str
    before: str
    after: str
    killed_by: str
    tests: int

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is called where reasons are given."""
        return self.file, self.definition, self.before, self.after


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of a run.

    Attributes:
        places: that could be mutated; a few of them give no other program.
        seed: of the sample.
        near: only tests ran that are named after the module.
        judged: the sample.
        first_killed: before tests were written for what survived of this very sample, which alone
            tells the share of all mutants. ``None``: none were written.
    """

    places: int
    seed: int
    near: bool
    judged: tuple[Judged, ...]
    first_killed: int | None = None

    @property
    def killed(self) -> int:
        """Of the sample."""
        return sum(bool(one.killed_by) for one in self.judged)

    def after(self, earlier: Outcome) -> Outcome:
        """The same, knowing what was killed of this very sample when it was first written."""
        if (earlier.seed, len(earlier.judged)) != (self.seed, len(self.judged)):
            return self
        known = earlier.killed if earlier.first_killed is None else earlier.first_killed
        return dataclasses.replace(self, first_killed=known if known < self.killed else None)

    @classmethod
    def read(cls, path: Path = OUTCOME) -> Outcome:
        """What was committed."""
        raw = json.loads(path.read_text())
        return cls(**raw | {"judged": tuple(Judged(**one) for one in raw["judged"])})

    def write(self, path: Path = OUTCOME) -> None:
        """To commit."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n")


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why a mutant survives.

    Attributes:
        file: of the mutant; empty: of any.
        definition: of the mutant.
        before: of the mutant.
        after: of the mutant.
        why: in words.
        equivalent: no test can see it, for it does the same, or the same more slowly.
    """

    why: str
    equivalent: bool
    before: str
    file: str = ""
    definition: str = ""
    after: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """As that of `Judged`."""
        return self.file, self.definition, self.before, self.after


def reasons(path: Path = REASONS) -> dict[tuple[str, str, str, str], Reason]:
    """By mutant."""
    found = [Reason(**one) for one in tomllib.loads(path.read_text())["survivor"]]
    return {one.key: one for one in found}


@dataclasses.dataclass(frozen=True)
class Score:
    """Killed, of those that can be; with the interval of the share, for a sample, at 95 %."""

    killed: int
    equivalent: int
    all: int

    @property
    def share(self) -> float:
        """Of all that are no equivalents."""
        return self.killed / (self.all - self.equivalent)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's."""
        found = binomtest(self.killed, self.all - self.equivalent)
        low, high = found.proportion_ci(0.95, method="wilson")
        return float(low), float(high)


class Reading:
    """An outcome with the reasons."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome, self.reasons = outcome, reasons()

    def reason(self, judged: Judged) -> Reason | None:
        """Of a survivor; of one without its file, the line that goes is enough."""
        return self.reasons.get(judged.key) or self.reasons.get(("", "", judged.before, ""))

    @property
    def survivors(self) -> list[Judged]:
        """In the order of files and lines."""
        return sorted((x for x in self.outcome.judged if not x.killed_by), key=lambda x: x.key)

    def score(self, judged: Sequence[Judged] | None = None) -> Score:
        """Of all, or of some."""
        some = self.outcome.judged if judged is None else judged
        same = [x for x in some if not x.killed_by and (r := self.reason(x)) and r.equivalent]
        return Score(sum(bool(x.killed_by) for x in some), len(same), len(some))

    def faults(self) -> Iterator[str]:
        """What must not be."""
        for one in self.survivors:
            if self.reason(one) is None:
                yield f"survives without a reason: {one.key}"
        for one in self.outcome.judged:
            reason = self.reasons.get(one.key)
            if one.killed_by and reason is not None:
                yield f"is killed, and has a reason to survive: {one.key}"
        if self.score().share < LEAST:
            yield f"{self.score().share:.1%} are killed; at least {LEAST:.0%}"

    def section(self) -> Iterator[str]:
        """Of ``docs/trust.md``."""
        score, outcome = self.score(), self.outcome
        others = score.all - score.killed - score.equivalent
        blind = outcome.first_killed
        first = score if blind is None else dataclasses.replace(score, killed=blind)
        low, high = first.interval
        since = "" if blind is None else f" ({blind} before tests were written for the others)"
        yield "## Mutants\n"
        yield MUTATED
        yield (
            f"Of {outcome.places:,} places, {score.all} were sampled (seed {outcome.seed}"
            f"{'; only by tests named after a module' if outcome.near else ''}):"
            f" **{score.killed} are killed**{since}, {score.equivalent} are equivalent, {others}"
            f" others survive. For all mutants that are not equivalent this says:"
            f" **{first.share:.1%}** are killed{'' if blind is None else ' without those tests'}"
            f" (95 % interval {low:.1%} to {high:.1%}).\n"
        )
        yield "| file | mutants | killed | of them by time | equivalent | others |"
        yield "| --- | --- | --- | --- | --- | --- |"
        yield "\n".join(self._rows()) + "\n"
        yield "### Survivors\n"
        yield "\n".join(self._survivors()) + "\n"

    def _rows(self) -> Iterator[str]:
        for file in sorted({one.file for one in self.outcome.judged}):
            some = [one for one in self.outcome.judged if one.file == file]
            score, causes = self.score(some), Counter(one.killed_by for one in some)
            others = score.all - score.killed - score.equivalent
            yield (
                f"| `{file}` | {score.all} | {score.killed} | {causes['time']} |"
                f" {score.equivalent} | {others} |"
            )

    def _survivors(self) -> Iterator[str]:
        for one in self.survivors:
            reason = self.reason(one)
            kind = "equivalent" if reason and reason.equivalent else "not seen"
            after = f"`{one.after}`" if one.after else "nothing"
            what = f"`{Path(one.file).name}`, `{one.definition}`: `{one.before}` → {after}"
            yield f"- {what}. {kind.capitalize()}: {reason.why if reason else 'no reason yet'}"


def judged(mutant: Any, verdict: Any) -> Judged:
    """A mutant with its verdict."""
    return Judged(
        mutant.file,
        mutant.key[1],
        mutant.spec.operator_name.partition("/")[2],
        mutant.before,
        mutant.after,
        verdict.killed_by,
        verdict.tests,
    )
