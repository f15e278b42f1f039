"""What the textbook says of methods by name: compression, attention and FFN, flash, latency."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.report.claim import Claim
from bench.report.display import megabytes, percent, times
from bench.report.frame import ATTENTION, FLASH, Row, rows
from bench.report.judges import (
    CHAIN,
    MODEL,
    PEAK,
    SAVED,
    Judge,
    Outcome,
    Verdict,
    cells,
    combined,
    command,
    grade,
    plain,
    shape,
    unmeasured,
    verdict,
)
from bench.report.listings import freed, uncompressed
from bench.report.rounding import steady


def codec(name: str, share: float) -> Judge:
    """A codec of ours takes that share of the boundaries' bytes away."""
    needs = (SAVED, "grad_max_rel_err")  # a simulated gradient has no values

    def judge(frame: pd.DataFrame) -> Verdict:
        found = [
            (row, under)
            for workload in (CHAIN, MODEL)
            for row in cells(frame, workload, "compressed", {"codec": name}, needs=needs)[-1:]
            if (under := uncompressed(frame, row))
        ]
        if not found:
            return unmeasured(command(MODEL, f"compressed(codec={name})"))
        parts = [freed(*pair) for pair in found]
        listed = "; ".join(
            f"{shape(row)}: {percent(part)} less, the gradient wrong by"
            f" {steady(row['grad_max_rel_err']):.1e} at most"
            for (row, _), part in zip(found, parts, strict=True)
        )
        claimed = f"Claimed {percent(share)} less of what boundaries take"
        outcome = combined(grade(part, share) for part in parts)
        return verdict(outcome, f"{claimed}. {listed}", [row for row, _ in found])

    return judge


def expensive(frame: pd.DataFrame) -> Verdict:
    """Attention and FFN hold most of what is saved; of it, the attention core a part."""
    variants = {
        name: found[-1]
        for name in ("textbook", "attention_core")
        if (found := cells(frame, MODEL, "selective", {"variant": name}, needs=("saved_x_none",)))
    }
    if "textbook" not in variants:
        return unmeasured(command(MODEL, "selective(variant=textbook)"))
    held = {name: 1 - row["saved_x_none"] for name, row in variants.items()}
    row = variants["textbook"]
    sentence = f"{shape(row)}: attention and FFN hold {percent(held['textbook'])} of what is saved"
    if "attention_core" in held:
        sentence += f", the attention core alone {percent(held['attention_core'])}"
    outcome: Outcome = "confirmed" if held["textbook"] > 0.5 else "refuted"
    return verdict(outcome, sentence, variants.values())


def flash_and_checkpoints(frame: pd.DataFrame) -> Verdict:
    """Both together need less than either alone."""
    both = [row for row in cells(frame, MODEL, "flash_checkpoint", needs=(PEAK,)) if plain(row)]
    if not both:
        return unmeasured(command(MODEL, "flash_checkpoint"))
    compared = [(row, *alone) for row in both if all(alone := _alone(frame, row))]
    if not compared:
        return unmeasured(command(MODEL, "every_layer"), command(MODEL, "none", "attention=flash"))
    row, checkpoints, flash = compared[-1]
    lower = [row[PEAK] < one[PEAK] for one in (checkpoints, flash)]
    outcome: Outcome = "confirmed" if all(lower) else "refined" if any(lower) else "refuted"
    sentence = (
        f"{shape(row)}: peak {megabytes(row[PEAK])} MB with both,"
        f" {megabytes(checkpoints[PEAK])} with checkpoints alone,"
        f" {megabytes(flash[PEAK])} with flash attention alone"
    )
    return verdict(outcome, sentence, [row, checkpoints, flash])


def _alone(frame: pd.DataFrame, row: Row) -> tuple[Row, Row]:
    """In the same setting, checkpoints alone and flash attention alone; empty: there is none."""
    alike = [r for r in rows(frame) if r["family"] == row["family"] and r[PEAK]]
    flash = [r for r in alike if r["workload_options"].get(ATTENTION) == FLASH]
    kinds = (([r for r in alike if r not in flash], "every_layer"), (flash, "none"))
    first, second = (next((r for r in k if r["spec"] == spec), {}) for k, spec in kinds)
    return first, second


def latency(frame: pd.DataFrame) -> Verdict:
    """A checkpointed step is slower."""
    found = [
        row
        for workload in (CHAIN, MODEL)
        for row in cells(frame, workload, "every_layer", needs=("step_ratio_low",))[-1:]
    ]
    if not found:
        return unmeasured(command(MODEL, "every_layer"))
    return verdict(combined(map(_slower, found)), _ratios(found), found)


def _slower(row: Row) -> Outcome:
    if row["step_ratio_low"] > 1:
        return "confirmed"
    return "refuted" if row["step_ratio_high"] < 1 else "refined"


def _ratios(found: Sequence[Row]) -> str:
    return "; ".join(
        f"{shape(row)}, every_layer: {times(row['step_ratio'])} the step of none"
        f" [{row['step_ratio_low']:.2f}, {row['step_ratio_high']:.2f}]"
        for row in found
    )


METHODS = (
    Claim(
        "compression-fp16",
        "- Quantize activations to FP16/INT8",
        "FP16 takes half of the boundaries' bytes away",
        codec("fp16", 0.5),
    ),
    Claim(
        "compression-int8",
        "- Quantize activations to FP16/INT8",
        "INT8 takes three quarters of them away",
        codec("int8", 0.75),
    ),
    Claim(
        "compression-projection",
        "- Use random projection to reduce dimension",
        "at half the dimension, half of them",
        codec("projection", 0.5),
    ),
    Claim(
        "expensive-operations",
        "# Do checkpoint expensive ops (attention, FFN)",
        "most of what is saved lies in attention and FFN",
        expensive,
    ),
    Claim(
        "flash-and-checkpoints",
        "With gradient checkpointing on top:",
        "both together need less than either alone",
        flash_and_checkpoints,
    ),
    Claim(
        "latency",
        "3. **Latency-critical**: Extra compute adds latency",
        "a checkpointed step is slower than one without",
        latency,
    ),
)
