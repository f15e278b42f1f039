"""What advice on a cluster says in sentences and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.advise.shared_facts import RankCandidate, SharedFacts
from bench.advise.words import PLAN, SHOWN, Page, Section, capital, failures
from bench.report.display import MISSING, abbreviate, percent, sized, times


def page(advice: SharedFacts) -> Page:
    """All that is said, in order."""
    setting = advice.setting
    heading = (
        f"{setting.workload} on {advice.ranks} × modelled {setting.device} ({setting.product})"
    )
    parts = (_fit(advice), _peak(advice), _strategies(advice), _command(advice))
    return Page(heading, [part for part in parts if part.sentences or part.rows or part.code])


def _fit(advice: SharedFacts) -> Section:
    setting, plain = advice.setting, advice.as_it_is
    shape = ", ".join(f"{key}={value}" for key, value in sorted(setting.options.items()))
    verdict = "fits" if advice.fits else "does not fit"
    held = f"{_sized(plain.peak_reserved_bytes)} of {sized(setting.room_bytes)} ({setting.room})"
    shared = f"sharing by {advice.parallel}; the batch is that of all ranks"
    sentences = [
        f"As it is, the step {verdict}: each of {advice.ranks} ranks holds {held}, {shared}.",
        f"Precision {setting.precision}, optimizer {setting.optimizer}; {shape}.",
    ]
    smaller = advice.smaller
    if smaller:
        sentences.append(
            f"No smaller cluster holds it: on {smaller.ranks} ranks each would hold"
            f" {sized(smaller.reserved_bytes)} under {smaller.spec}."
        )
    return Section("Does it fit?", sentences)


def _sized(size_bytes: int | None) -> str:
    return sized(size_bytes) if size_bytes else MISSING


def _peak(advice: SharedFacts) -> Section:
    """Of a rank as it is, and under what is chosen."""
    plain, chosen = advice.as_it_is, advice.strategy
    shown = [plain] if chosen is None or chosen is plain else [plain, chosen]
    names = [name for one in shown for name, size in _large(one.by_category)]
    rows = [
        (name, *(sized(one.by_category.get(name, 0)) for one in shown))
        for name in dict.fromkeys(names)
    ]
    header = ("Part", *(f"Under {one.spec}" for one in shown))
    return Section("What is a rank's peak made of?", (), header, rows)


def _large(parts: Mapping[str, int]) -> list[tuple[str, int]]:
    total = sum(parts.values()) or 1
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return [(name, size) for name, size in ordered if size >= SHOWN * total]


def _strategies(advice: SharedFacts) -> Section:
    rows = [_candidate(one, advice) for one in advice.candidates]
    header = ("Strategy", "Plan", "Peak", "Held", "Extra compute", "Step", "Waiting", "Fits")
    return Section(
        "Which strategy?",
        (_verdict(advice), *failures(advice.candidates)),
        header,
        rows,
        advice.line,
    )


def _verdict(advice: SharedFacts) -> str:
    chosen = advice.strategy
    if chosen is None:
        return "None of these makes it fit; more ranks divide what the model is."
    if advice.fits:
        return "None is needed: without one the step is fastest. What they would save:"
    return (
        f"{chosen.spec}: the fastest that fits. Each rank holds"
        f" {_sized(chosen.peak_reserved_bytes)} of {sized(advice.setting.room_bytes)}, a step takes"
        f" {chosen.step_s or 0:.3g} s ({times(chosen.step_ratio)} none, modelled), and"
        f" {percent(chosen.recompute_of_forward)} of a forward is computed again."
    )


def _candidate(one: RankCandidate, advice: SharedFacts) -> tuple[str, ...]:
    fits = "yes" if one.fits else "no" if one.status == "oom" else one.status
    waiting = one.waiting_s / one.step_s if one.step_s and one.waiting_s is not None else None
    return (
        one.spec,
        abbreviate(one.plan, PLAN) if one.plan else MISSING,
        _sized(one.peak_allocated_bytes),
        _sized(one.peak_reserved_bytes),
        percent(one.recompute_of_forward),
        times(one.step_ratio),
        percent(waiting),
        f"{fits}, taken" if one.spec == advice.chosen else fits,
    )


def _command(advice: SharedFacts) -> Section:
    chosen = advice.strategy
    if chosen is None:
        return Section("How to see it")
    return Section("How to see it", tuple(_sent(chosen)), code=advice.command)


def _sent(chosen: RankCandidate) -> Iterator[str]:
    if chosen.communication_bytes:
        sizes = [f"{kind} {sized(size)}" for kind, size in chosen.communication_bytes.items()]
        yield f"{capital(chosen.spec)} sends, in a step: {', '.join(sizes)}."
