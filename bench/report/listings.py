"""The textbook's own code, judged: each listing ran as it is printed, under the harness of all.

The records are those of `python -m bench peers`: a strategy a listing, or the library's function
that the listing calls.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.report.claim import Claim
from bench.report.display import percent, times
from bench.report.frame import Row, rows
from bench.report.judges import (
    SAVED,
    Judge,
    Outcome,
    Verdict,
    combined,
    grade,
    shape,
    unmeasured,
    verdict,
)
from bench.report.rounding import steady

COMMAND = "python -m bench peers"
FP32_BYTES = 4
CUSTOM = "textbook_custom_checkpoint"
OFFLOAD = "textbook_offload_checkpoint"
COMPRESSED = "textbook_compressed_checkpoint"


def tried(frame: pd.DataFrame, strategy: str) -> list[Row]:
    """Rows of a strategy however they ended, as long as they say something of the code."""
    found = [row for row in rows(frame) if row["strategy"] == strategy]
    return [row for row in found if row["status"] in ("ok", "mismatch", "crash")]


def works(strategy: str, params: dict[str, Any] | None = None) -> Judge:
    """The gradients are those without it, to the bit, and the peak is lower."""

    def judge(frame: pd.DataFrame) -> Verdict:
        found = [
            row
            for row in tried(frame, strategy)
            if (params or {}).items() <= row["params"].items() and row["peak_x_reference"]
        ]
        if not found:
            return unmeasured(COMMAND)
        outcomes: list[Outcome] = [
            "confirmed" if row["grads_bitwise_equal"] and row["peak_x_reference"] < 1 else "refuted"
            for row in found
        ]
        listed = "; ".join(map(_worked, found))
        return verdict(combined(outcomes), f"Run as it is printed. {listed}", found)

    return judge


def _worked(row: Row) -> str:
    equal = "bitwise equal" if row["grads_bitwise_equal"] else "differ"
    again = f"{percent(row['recompute_of_forward'])} of a forward again"
    return (
        f"{shape(row)}: gradients {equal}, peak {times(row['peak_x_reference'])} of none, {again}"
    )


def custom(frame: pd.DataFrame) -> Verdict:
    """Gradients, random state, and what it can be called with."""
    found = tried(frame, CUSTOM)
    if not found:
        return unmeasured(COMMAND)
    right = [row["status"] == "ok" and bool(row["grads_bitwise_equal"]) for row in found]
    outcome: Outcome = "confirmed" if all(right) else "refined" if any(right) else "refuted"
    return verdict(outcome, f"Run as it is printed. {'; '.join(map(_did, found))}", found)


def _did(row: Row) -> str:
    if row["status"] == "crash":
        last = str(row["reason"]).strip().splitlines()[-1]
        return f"{shape(row)}: it ends in an error, {last}"
    if row["status"] == "ok":
        return f"{shape(row)}: gradients as without it"
    missing = row["grads_missing"]
    state = "" if row["rng_restored"] else ", and the random state is not restored"
    return (
        f"{shape(row)}: {len(missing)} parameters get no gradient, among them all of the blocks',"
        f" such as {missing[0]}{state}"
        if missing
        else f"{shape(row)}: {row['reason']}"
    )


def offload(frame: pd.DataFrame) -> Verdict:
    """What forward keeps is less than without."""
    found = [row for row in tried(frame, OFFLOAD) if row["saved_x_reference"]]
    if not found:
        return unmeasured(COMMAND)
    outcomes: list[Outcome] = [
        "confirmed" if row["saved_x_reference"] < 1 else "refuted" for row in found
    ]
    listed = "; ".join(
        f"{shape(row)}: saved after forward {times(row['saved_x_reference'])} of none, peak"
        f" {times(row['peak_x_reference'])}, {percent(row['recompute_of_forward'])} of a forward"
        " again"
        for row in found
    )
    why = "Its copy is made and its backward_hook registered nowhere, so nothing reads the copy"
    return verdict(combined(outcomes), f"{why}. {listed}", found)


def compression(frame: pd.DataFrame) -> Verdict:
    """The listing's functions halve the boundaries, and leave the step what it was."""
    found = [row for row in tried(frame, COMPRESSED) if uncompressed(frame, row)]
    if not found:
        return unmeasured(COMMAND)
    parts, outcomes = [], list[Outcome]()
    for row in found:
        part = freed(row, uncompressed(frame, row))
        same = row["loss"] == row["reference_loss"] and bool(row["grads_bitwise_equal"])
        halved = grade(part, 0.5) == "confirmed"
        outcomes.append("confirmed" if halved and same else "refined" if halved else "refuted")
        parts.append(
            f"{shape(row)}: boundaries take {percent(part)} less; the loss is {row['loss']!r}"
            f" instead of {row['reference_loss']!r}, the gradient wrong by"
            f" {steady(row['grad_max_rel_err']):.1e} at most"
        )
    return verdict(combined(outcomes), "; ".join(parts), found)


def uncompressed(frame: pd.DataFrame, row: Row) -> Row:
    """`every_layer` in the same setting, or an empty row."""
    same = [r for r in rows(frame) if r["family"] == row["family"] and r["spec"] == "every_layer"]
    return same[-1] if same else {}


def freed(row: Row, under: Row) -> float:
    """Part of the bytes of all boundaries that are saved no more."""
    sizes = row["workload_options"]
    values = sizes["layers"] * sizes["batch"] * sizes.get("seq", 1) * sizes["dim"]
    return float((under[SAVED] - row[SAVED]) / (values * FP32_BYTES))


LISTINGS = (
    Claim(
        "listing-loop",
        "x = checkpoint(layer, x, use_reentrant=False)",
        "the same gradients in less memory",
        works("torch_checkpoint", {"reentrant": False}),
    ),
    Claim(
        "listing-sequential",
        "x = checkpoint_sequential(model, segments=4, input=x)",
        "the same gradients in less memory",
        works("torch_checkpoint_sequential", {"segments": 4}),
    ),
    Claim(
        "listing-transformers",
        "loss.backward()  # Recomputes activations",
        "the same gradients in less memory",
        works("transformers_checkpoint", {"every": 1, "offload": False}),
    ),
    Claim(
        "listing-custom",
        "class CustomCheckpoint(torch.autograd.Function):",
        "the same gradients, whatever the block draws and is called with",
        custom,
    ),
    Claim(
        "listing-compression",
        "def checkpoint_with_compression(x):",
        "checkpoints take half as much, and the step is otherwise the same",
        compression,
    ),
    Claim(
        "listing-offload",
        "class OffloadCheckpoint(nn.Module):",
        "less stays on the device than without",
        offload,
    ),
)
