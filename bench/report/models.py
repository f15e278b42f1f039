"""What became of real architectures under the strategies: a line each, and why what was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pandas as pd

from bench.report import display, separated
from bench.report.display import MISSING, cell, times
from bench.report.rounding import steady
from bench.report.tables import plain
from bench.store.models import BAD, OWN, Outcome, Study

LAYER = "every_layer"
TAIL = ("Peak: `every_layer`", "Peak: library's own", "`every_layer` ÷ it")
NOTES = (
    "Each architecture is built tiny from a configuration, in training mode, caches off, dropout "
    "and dropped layers on; two training steps from the same seed under each strategy are held "
    "against those of the model as it is. *bitwise*: losses, every gradient, buffers and random "
    "states of torch, Python and numpy are equal to the bit. *refused*: the strategy says why it "
    "does not run, below. Peaks are the most that tensors hold in forward and backward above "
    "parameters, buffers and batch, over the same without checkpoints; *library's own* is the "
    "checkpointing that the library of the model has, where it has one.\n"
)


def markdown(studies: Sequence[Study]) -> str:
    """The counts, a line for each model, and reasons."""
    installed = [study for study in studies if study.installed]
    specs = list(dict.fromkeys(o.spec for s in installed for o in s.outcomes if o.spec != OWN))
    header = ("Model", "Library", "torch", "Blocks", *(f"`{spec}`" for spec in specs), *TAIL)
    body = [_line(study, specs) for study in studies]
    parts = ["# Real architectures\n", NOTES, summary(studies) + "\n"]
    if installed:
        parts.insert(1, cell(where(installed)) + "\n")
    parts.append(display.table(header, body, right=len(TAIL)))
    reasons = [f"- {cell(text)}" for study in installed for text in _reasons(study)]
    if reasons:
        parts.append("## Why\n\n" + "\n".join(reasons) + "\n")
    return "\n".join(parts)


def where(studies: Sequence[Study]) -> str:
    """Where, when and with what they were trained: of a CPU, whatever accelerator there was."""
    rows = [
        {
            "device": "cpu",
            "device_name": study.machine["processor"],
            "modelled": False,
            "torch_version": study.torch_version,
            "started_at_utc": study.started_at_utc,
        }
        for study in studies
    ]
    libraries = {f"{study.library} {study.library_version}" for study in studies}
    others = sorted(text for text in libraries if not text.startswith("torch "))
    return "; ".join([display.where(rows), *others])


def summary(studies: Sequence[Study]) -> str:
    """How many, and how it went, in a few sentences."""
    installed = [study for study in studies if study.installed]
    ours = [o.verdict for s in installed for o in s.outcomes if o.spec != OWN]
    counts = ", ".join(f"{count} {name}" for name, count in sorted(Counter(ours).items()))
    return (
        f"{len(installed)} architectures were here, {len(studies) - len(installed)} need a library"
        f" that is not installed; {sum(bool(s.problem) for s in installed)} came to nothing."
        f" Models under a strategy: {counts or 'none'}. {_comparison(installed)}"
    )


def _comparison(studies: Sequence[Study]) -> str:
    """Of peaks with the libraries' own; one that trains another model may need less."""
    right, wrong = (
        [ratio for s in studies if _own_is_right(s) is kind and (ratio := versus_own(s))]
        for kind in (True, False)
    )
    return (
        f"The peak of `every_layer` is higher than under the library's own checkpointing in"
        f" {_higher(right)} of {len(right)} models in which that one is bitwise, too, and lower in"
        f" {sum(ratio < 1 for ratio in right)}; in the {len(wrong)} models in which the library's"
        f" own is *WRONG* it is higher in {_higher(wrong)}, by {_most(wrong)} at most."
    )


def _own_is_right(study: Study) -> bool:
    own = outcome_of(study, OWN)
    return own is not None and own.verdict == "bitwise"


def _higher(ratios: Sequence[float]) -> int:
    return sum(ratio > 1 for ratio in ratios)


def _most(ratios: Sequence[float]) -> str:
    return display.percent(max(0.0, *ratios, 1.0) - 1, decimals=2)


def outcome_of(study: Study, spec: str) -> Outcome | None:
    """What became of it under one strategy."""
    return next((one for one in study.outcomes if one.spec == spec), None)


def peak(study: Study, spec: str) -> float | None:
    """Above what is resident, over that of the model as it is."""
    outcome = outcome_of(study, spec)
    if outcome is None or outcome.peak_bytes is None or study.plain_peak_bytes is None:
        return None
    spared = outcome.peak_bytes - study.resident_bytes
    return spared / (study.plain_peak_bytes - study.resident_bytes)


def versus_own(study: Study) -> float | None:
    """The peak of `every_layer` over that of the library's own checkpointing."""
    ours, own = peak(study, LAYER), peak(study, OWN)
    return steady(ours / own) if ours is not None and own else None


def _line(study: Study, specs: Sequence[str]) -> list[str]:
    blocks = f"{study.block_count} in {len(study.towers)}" if study.towers else MISSING
    verdicts = [_verdict(study, outcome_of(study, spec)) for spec in specs]
    ratio = versus_own(study)
    return [
        cell(study.model),
        cell(study.library),
        cell(study.torch_version) if study.installed else MISSING,
        blocks,
        *verdicts,
        times(peak(study, LAYER)),
        times(peak(study, OWN)),
        f"**{ratio:.3f}×**" if ratio and ratio > 1 else f"{ratio:.3f}×" if ratio else MISSING,
    ]


def _verdict(study: Study, outcome: Outcome | None) -> str:
    if not study.installed:
        return "not installed"
    if outcome is None:
        return "**error**" if study.problem else MISSING
    return f"**{outcome.verdict}**" if outcome.verdict in BAD else outcome.verdict


def _reasons(study: Study) -> Iterator[str]:
    """One for each reason, with all the strategies that give it."""
    if study.problem:
        yield f"{study.model}: {study.problem}"
    grouped: dict[tuple[str, str], list[str]] = {}
    for one in study.outcomes:
        if one.reason and not (one.spec == OWN and one.verdict == "refused"):
            grouped.setdefault((one.verdict, one.reason), []).append(one.spec)
    for (verdict, reason), specs in grouped.items():
        yield f"{study.model}, {', '.join(specs)}: {verdict}: {reason}"


def csv(studies: Sequence[Study]) -> str:
    """Every outcome of every model: raw bytes, ratios to six decimals."""
    frame = pd.DataFrame([row for study in studies for row in _rows(study)], dtype=object)
    return separated.csv(frame)


def _rows(study: Study) -> Iterator[dict[str, object]]:
    shared = {
        "model": study.model,
        "library": study.library,
        "library_version": study.library_version,
        "torch_version": study.torch_version,
        "machine_id": study.machine_id,
        "parameter_count": study.parameter_count,
        "block_count": study.block_count,
        "towers": " ".join(study.towers),
        "left_out": " ".join(study.left_out),
        "resident_bytes": study.resident_bytes,
        "plain_peak_bytes": study.plain_peak_bytes,
    }
    nothing: list[Outcome | None] = [None]
    for one in study.outcomes or nothing:
        own = {
            "spec": one and one.spec,
            "verdict": one.verdict if one else "error" if study.installed else "not installed",
            "reason": one.reason if one else study.problem,
            "peak_bytes": one and one.peak_bytes,
            "peak_x_plain": peak(study, one.spec) if one else None,
        }
        yield {name: plain(value) for name, value in {**shared, **own}.items()}
