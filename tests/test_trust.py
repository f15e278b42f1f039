"""The page about faults says what the tests inject."""

import dataclasses
from pathlib import Path

import pytest
import trust
from effort import few
from mutants import outcome
from mutants.outcome import Judged, Outcome, Reading, Reason

ROOT = Path(__file__).parent.parent


def test_the_page_is_fresh():
    assert trust.PAGE.read_text() == trust.text(), "run python tests/trust.py"


@pytest.mark.parametrize("one", few(range(6), 2))
@pytest.mark.parametrize("other", [1, 2, 3])
def sample(one, other): ...


@pytest.mark.long
@pytest.mark.parametrize("one", range(4))
def long_sample(one): ...


def test_cases_are_counted():
    assert trust.counts(sample) == (18, 6)
    assert trust.counts(long_sample) == (4, 0)
    assert trust.counts(test_cases_are_counted) == (1, 1)


def test_what_survives_has_a_reason_and_enough_is_killed():
    assert list(Reading(Outcome.read()).faults()) == []


@pytest.mark.parametrize("reason", outcome.reasons().values(), ids=lambda reason: reason.before)
def test_what_has_a_reason_is_still_there(reason):
    folders = [ROOT / "strategies" / name for name in ("schedules", "solvers")]
    some = [ROOT / reason.file] if reason.file else [p for x in folders for p in x.glob("*.py")]
    texts = ["\n".join(map(str.strip, path.read_text().splitlines())) for path in some]
    assert any(reason.before in text for text in texts)
    assert not reason.file or f" {reason.definition.split('.')[-1]}" in texts[0]


def judged(after, killed_by, file="a.py"):
    return Judged(file, "f", "Operator", "x = 1", after, killed_by, 5)


@pytest.fixture
def reading():
    """Two killed, one equivalent, one that is not seen, and one without a reason."""
    sample = [judged("x = 2", "failed"), judged("x = 3", "time"), judged("x = 4", "")]
    sample += [judged("x = 5", ""), judged("x = 6", "", "b.py")]
    reading = Reading(Outcome(9, 0, False, tuple(sample)))
    same = Reason("It is the same.", True, "x = 1", "a.py", "f", "x = 4")
    unseen = Reason("Nobody looks.", False, "x = 1", "a.py", "f", "x = 5")
    reading.reasons = {one.key: one for one in (same, unseen)}
    return reading


def test_the_share_of_mutants_is_of_those_that_are_no_equivalents(reading):
    score = reading.score()
    assert (score.killed, score.equivalent, score.all, score.share) == (2, 1, 5, 0.5)
    # Wilson 1927: the roots of (p − 1/2)² = z² p (1 − p) / n, here for n = 4.
    half = 1.959964 / (2 * (4 + 1.959964**2) ** 0.5)
    assert score.interval == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_survivors_without_a_reason_and_too_few_killed_are_faults(reading):
    assert list(reading.faults()) == [
        "survives without a reason: ('b.py', 'f', 'x = 1', 'x = 6')",
        "50.0% are killed; at least 90%",
    ]


def test_a_reason_of_what_is_killed_is_a_fault(reading):
    wrong = Reason("It is the same.", True, "x = 1", "a.py", "f", "x = 2")
    reading.reasons[wrong.key] = wrong
    assert "is killed, and has a reason to survive: ('a.py', 'f', 'x = 1', 'x = 2')" in set(
        reading.faults()
    )


def test_the_page_has_each_file_and_survivor(reading):
    text = "\n".join(reading.section())
    low, high = reading.score().interval
    assert f"**50.0%** are killed (95 % interval {low:.1%} to {high:.1%})" in text
    assert "Of 9 places, 5 were sampled (seed 0): **2 are killed**, 1 are equivalent" in text
    assert "| `a.py` | 4 | 2 | 1 | 1 | 1 |" in text
    assert "- `a.py`, `f`: `x = 1` → `x = 5`. Not seen: Nobody looks." in text


def test_tests_written_for_a_sample_do_not_count_for_all_mutants(reading):
    reading.outcome = dataclasses.replace(reading.outcome, first_killed=1)
    text = "\n".join(reading.section())
    assert "**2 are killed** (1 before tests were written for the others)" in text
    assert "**25.0%** are killed without those tests" in text


@pytest.mark.parametrize(
    ("first", "then", "known"), [(None, "", None), (None, "time", 2), (1, "time", 1)]
)
def test_what_was_killed_before_tests_were_written_is_remembered(reading, first, then, known):
    """Of the same sample only."""
    earlier = dataclasses.replace(reading.outcome, first_killed=first)
    *others, last = earlier.judged
    later = Outcome(9, 0, False, (*others, dataclasses.replace(last, killed_by=then)))
    assert later.after(earlier).first_killed == known
    assert dataclasses.replace(later, seed=1).after(earlier).first_killed is None
    assert dataclasses.replace(later, judged=tuple(others)).after(earlier).first_killed is None
