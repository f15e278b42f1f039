"""The textbook's advice on when to checkpoint, judged by where it starts to pay."""

from __future__ import annotations

import pandas as pd

from bench.report.claim import Claim
from bench.report.display import percent, times
from bench.report.frame import Row
from bench.report.judges import Outcome, Threshold, Verdict, combined, unmeasured, verdict
from bench.report.pays import (
    KEPT,
    SPARED,
    Pair,
    Rows,
    by_length,
    by_size,
    counted,
    fits,
    pairs,
)

COMMAND = "python -m bench pays"
LARGE = 1e9
OCTAVE = Threshold(2.0, "a rule of thumb in round numbers is meant to a factor of two")


def starts(kinds: Rows, over: str, claimed: float, unit: str) -> Verdict:
    """From ``claimed`` on a step needs checkpoints, and below it does not: on every device."""
    parts, outcomes, used = [], list[Outcome](), list[Row]()
    for device, found in kinds.items():
        below = [getattr(p, over) for p in found if fits(p.without)]
        above = [p for p in found if p.pays]
        if not below or not above:
            continue
        first = above[0]
        outcomes.append(_began(max(below), getattr(first, over), claimed))
        parts.append(
            f"{device}: the largest that fits without checkpoints has {max(below):,}, the smallest"
            f" that fits with them alone {getattr(first, over):,}, where they take"
            f" {percent(first.spared)} of the peak away for {percent(first.slower - 1)} more time"
        )
        used += [row for p in found for row in (p.without, p.with_)]
    if not outcomes:
        return unmeasured(COMMAND)
    sentence = f"Claimed from {claimed:,.0f} {unit} on. {'; '.join(parts)}"
    return verdict(combined(outcomes), sentence, used)


def _began(largest: int, smallest: int, claimed: float) -> Outcome:
    """Claimed between the last that does without and the first that cannot."""
    if largest < claimed <= smallest:
        return "confirmed"
    near = smallest / OCTAVE.value <= claimed <= OCTAVE.value * smallest
    return "refined" if near else "refuted"


def large_models(frame: pd.DataFrame) -> Verdict:
    """More than a billion parameters."""
    return starts(by_size(frame), "parameters", LARGE, "parameters")


def long_sequences(frame: pd.DataFrame) -> Verdict:
    """More than 2,048 tokens."""
    return starts(by_length(frame), "tokens", 2048, "tokens")


def small_models(frame: pd.DataFrame) -> Verdict:
    """Of models below the size where it is said to pay, the smallest fits without everywhere."""
    kinds = by_size(frame)
    if not kinds:
        return unmeasured(COMMAND)
    small = {
        device: [p for p in found if p.parameters < LARGE and fits(p.without)]
        for device, found in kinds.items()
    }
    outcomes: list[Outcome] = [
        "confirmed" if found[:1] == kinds[device][:1] else "refuted"
        for device, found in small.items()
    ]
    listed = "; ".join(
        f"{device}: {', '.join(map(_unneeded, found)) or 'none of them'}"
        for device, found in small.items()
    )
    used = [pair.without for found in kinds.values() for pair in found]
    return verdict(
        combined(outcomes), f"Fit without, and what checkpoints take away: {listed}", used
    )


def _unneeded(pair: Pair) -> str:
    size, peak, time = counted(pair.parameters), percent(pair.spared), percent(pair.slower - 1)
    return f"{size} parameters ({peak} of the peak for {time} more time)"


def mixed_precision(frame: pd.DataFrame) -> Verdict:
    """Autocast lowers the peak, with and without checkpoints."""
    half = {(d, p.parameters): p for d, found in by_size(frame).items() for p in found}
    full = [p for p in pairs(frame) if p.without["precision"] == "fp32"]
    keys = [((str(p.without["device"]), p.parameters), p) for p in full]
    both = [(p, half[key]) for key, p in keys if key in half]
    if not both:
        return unmeasured(COMMAND)
    parts, outcomes, used = [], list[bool](), list[Row]()
    for single, mixed in both:
        for name, one, other in (
            (KEPT, single.without, mixed.without),
            (SPARED, single.with_, mixed.with_),
        ):
            saved = other["saved_after_forward_bytes"] / one["saved_after_forward_bytes"]
            peak = other["peak_allocated_bytes"] / one["peak_allocated_bytes"]
            outcomes.append(peak < 1)
            parts.append(f"{name}: saved {times(saved)} of fp32, peak {times(peak)}")
            used += [one, other]
    agreed: Outcome = "confirmed" if all(outcomes) else "refined" if any(outcomes) else "refuted"
    return verdict(agreed, f"Autocast in bfloat16. {'; '.join(parts)}", used)


ADVICE = (
    Claim(
        "large-models",
        "1. **Training large models**: >1B parameters",
        "from a billion parameters on a step fits with checkpoints alone",
        large_models,
    ),
    Claim(
        "long-sequences",
        "2. **Long sequences**: >2048 tokens",
        "from 2,048 tokens on a step fits with checkpoints alone",
        long_sequences,
    ),
    Claim(
        "small-models",
        "2. **Small models**: Memory isn't the bottleneck",
        "small models fit without checkpoints",
        small_models,
    ),
    Claim(
        "mixed-precision",
        "# Use mixed precision for additional memory savings",
        "autocast lowers the peak, with checkpoints and without",
        mixed_precision,
    ),
)
