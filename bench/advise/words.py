"""What advice says in sentences and tables, whatever they are printed as."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bench.advise.facts import Candidate, Facts, Largest, Remedy
from bench.report.display import MISSING, abbreviate, percent, sized, times

SHOWN = 0.01
"""Of the peak: what takes less goes unsaid."""
MOST_OPERATORS = 4
PLAN = 24
"""Characters of a plan."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the advice.

    Attributes:
        title: of it.
        sentences: before the table.
        header: of the table; none: there is no table.
        rows: of as many cells as the header has.
        code: a line to paste.
    """

    title: str
    sentences: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    code: str = ""


@dataclasses.dataclass(frozen=True)
class Page:
    """All that is said.

    Attributes:
        heading: what the advice is for.
        sections: in order.
    """

    heading: str
    sections: Sequence[Section]


def page(advice: Facts) -> Page:
    """All that is said of one device."""
    setting = advice.setting
    modelled = "modelled " if setting.modelled else ""
    heading = f"{setting.workload} on {modelled}{setting.device} ({setting.product})"
    parts = [_fit(advice), _peak(advice), _strategies(advice), _sizes(advice), *_others(advice)]
    return Page(heading, [part for part in parts if part.sentences or part.rows])


def _fit(advice: Facts) -> Section:
    setting, plain = advice.setting, advice.as_it_is
    shape = ", ".join(f"{key}={value}" for key, value in sorted(setting.options.items()))
    verdict = "fits" if advice.fits else "does not fit"
    needs = sized(plain.peak_allocated_bytes) if plain.peak_allocated_bytes else MISSING
    held = f", {sized(plain.peak_reserved_bytes)} held" if plain.peak_reserved_bytes else ""
    room = f"{sized(setting.room_bytes)} ({setting.room})"
    why = "" if advice.fits or not plain.reason else f" {capital(plain.reason)}."
    return Section(
        "Does it fit?",
        (
            f"As it is, the step {verdict}: it needs {needs} at its peak{held}, of {room}.{why}",
            f"Precision {setting.precision}, optimizer {setting.optimizer}; {shape}.",
        ),
    )


def capital(text: str) -> str:
    """With a capital."""
    return text[:1].upper() + text[1:]


def _peak(advice: Facts) -> Section:
    peak = advice.peak
    where = f"in {peak.phase} of {peak.module}, at {peak.operator or 'its beginning'}"
    sentences = [f"The peak is {where}.", f"{capital(peak.sentence)}."]
    made = [
        f"{name} {sized(count)}"
        for name, count in list(peak.saved_by_operator.items())[:MOST_OPERATORS]
        if count >= SHOWN * peak.size_bytes
    ]
    if made:
        sentences.append(f"Most of the saved tensors were made by {', '.join(made)}.")
    parts = sorted(peak.by_category.items(), key=lambda part: -part[1])
    total = sum(peak.by_category.values()) or 1
    rows = [(name, sized(n), percent(n / total)) for name, n in parts if n >= SHOWN * total]
    return Section("What is the peak made of?", sentences, ("Part", "Bytes", "Of the peak"), rows)


def _strategies(advice: Facts) -> Section:
    chosen = advice.strategy
    rows = [_candidate(one, advice.as_it_is, advice.chosen) for one in advice.candidates]
    kind = "modelled" if advice.setting.modelled else "measured"
    header = ("Strategy", "Plan", "Peak", "× none", "Extra compute", f"Step, {kind}", "Fits")
    return Section(
        "Which strategy?",
        (_verdict(advice, chosen), *failures(advice.candidates)),
        header,
        rows,
        advice.line,
    )


def _verdict(advice: Facts, chosen: Candidate | None) -> str:
    if chosen is None:
        return "None of these makes it fit; what else would help is below."
    if advice.fits:
        return "None is needed: without one the step is fastest. What they would save:"
    step = f"a step takes {times(chosen.step_ratio)} none" if chosen.step_ratio else "untimed"
    extra = percent(chosen.recompute_of_forward)
    size_bytes = chosen.peak_allocated_bytes or 0
    return (
        f"{chosen.spec}: the fastest that fits. Its peak is {sized(size_bytes)} ({size_bytes:,}"
        f" bytes), {step}, {extra} of a forward is computed again."
    )


def failures(candidates: Sequence[Candidate]) -> Iterator[str]:
    """Why some are not to be had; what only does not fit says so in its row."""
    for one in candidates:
        if one.status not in {"ok", "oom"}:
            why = str(one.reason).removeprefix(f"{one.spec}: ")
            yield f"{one.spec}: {one.status}: {why}."


def _candidate(one: Candidate, plain: Candidate, chosen: str | None) -> tuple[str, ...]:
    peak_bytes, plain_bytes = one.peak_allocated_bytes, plain.peak_allocated_bytes
    ratio = peak_bytes / plain_bytes if peak_bytes and plain_bytes else None
    fits = "yes" if one.fits else "no" if one.status == "oom" else one.status
    return (
        one.spec,
        abbreviate(one.plan, PLAN) if one.plan else MISSING,
        sized(peak_bytes) if peak_bytes else MISSING,
        times(ratio),
        percent(one.recompute_of_forward),
        times(one.step_ratio),
        f"{fits}, taken" if one.spec == chosen else fits,
    )


def _sizes(advice: Facts) -> Section:
    rows = [_size(one) for one in advice.largest]
    sentences = ("The largest that fits, modelled, everything else as it is:",) if rows else ()
    return Section("How large can it be?", sentences, ("Size", "Strategy", "Now", "Largest"), rows)


def _size(one: Largest) -> tuple[str, ...]:
    return one.axis, one.spec, f"{one.now:,}", f"{one.value:,}" if one.value else "none fits"


def _others(advice: Facts) -> Iterator[Section]:
    base = "as it is" if advice.base == advice.as_it_is.spec else f"under {advice.base}"
    helping = [one for one in advice.remedies if one.helps]
    yield Section(
        "What else would help?",
        (f"Each alone, with the step {base}; modelled.",) if helping else (),
        ("What", "Saves", "Peak", "Fits", "How"),
        [_remedy(one) for one in helping],
    )
    rest = [(one.name, _in_vain(one)) for one in advice.remedies if not one.helps]
    yield Section("What would not help?", (), ("What", "Why"), rest)


def _remedy(one: Remedy) -> tuple[str, ...]:
    peak = sized(one.peak_allocated_bytes) if one.peak_allocated_bytes else MISSING
    fits = "yes" if one.fits else "no"
    return one.name, sized(one.saved_bytes), peak, fits, one.how


def _in_vain(one: Remedy) -> str:
    if one.peak_allocated_bytes is None or not one.saved_bytes:
        return one.how
    less = "saves" if one.saved_bytes > 0 else "costs"
    return f"{less} {sized(abs(one.saved_bytes))}: {one.how}"
