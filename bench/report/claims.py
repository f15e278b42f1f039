"""The textbook's claims, as data: what it says, what that predicts, and what records say of it.

Sources are quoted verbatim from the textbook's chapter *Gradient Checkpointing: Trading Compute for
Memory*. Verdicts are computed from records each time, never written down here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd

from bench.report import clusters, display
from bench.report.advice import ADVICE, OCTAVE
from bench.report.claim import Claim, Statement
from bench.report.display import cell, code
from bench.report.frame import rows
from bench.report.judges import CHAIN, CLOSE, MODEL, NEAR, ORDER, Verdict, growth, recompute
from bench.report.listings import LISTINGS
from bench.report.methods import METHODS
from bench.report.unjudged import UNJUDGED
from bench.report.verdicts import (
    approaches_forward,
    every_k_compute,
    flash_keeps_no_matrix,
    gpt3_activations,
    linear_share,
    offload_latency,
    sqrt_optimal,
    three_quarters_less,
)
from bench.store.clusters import Study

VARIANTS = ({"variant": "attention_core"}, {"variant": "textbook"})

NONE = "| No checkpointing | O(L × N × d) | 0 |"
LAYER = "| Every layer | O(N × d) | ~100% |"
EVERY_K = "| Every k layers | O(L/k × N × d) | ~(k-1)/k × 100% |"
SQRT = "| √L checkpoints | O(√L × N × d) | ~100% |"
SELECTIVE = "| Selective (attn only) | O(L/2 × N × d) | ~30-50% |"
EXAMPLE = "**Trade-off**: ~33% more compute, but 75% less memory!"

LEDGER = (
    Claim(
        "none-memory",
        NONE,
        "without checkpointing, what is saved grows as L",
        growth("none", 1),
    ),
    Claim("none-compute", NONE, "nothing is computed twice", recompute("none", 0.0)),
    Claim(
        "every-layer-memory",
        LAYER,
        "what is saved does not depend on L",
        growth("every_layer", 0),
    ),
    Claim(
        "every-layer-compute",
        LAYER,
        "one more forward",
        recompute("every_layer", 1.0),
    ),
    Claim(
        "every-k-memory",
        EVERY_K,
        "what is saved grows as L, and is 1/k of that without checkpointing",
        linear_share("every_k", [({"k": k}, 1 / k) for k in (2, 4, 8)], (CHAIN, MODEL)),
    ),
    Claim("every-k-compute", EVERY_K, "(k−1)/k of a forward more", every_k_compute),
    Claim("sqrt-memory", SQRT, "what is saved grows as √L", growth("sqrt", 0.5)),
    Claim("sqrt-compute", SQRT, "one more forward", recompute("sqrt", 1.0)),
    Claim(
        "selective-memory",
        SELECTIVE,
        "what is saved grows as L, and is half of that without checkpointing",
        linear_share("selective", [(variant, 0.5) for variant in VARIANTS], (MODEL,)),
    ),
    Claim(
        "selective-compute",
        SELECTIVE,
        "30 to 50 % of a forward more",
        recompute("selective", 0.3, 0.5, VARIANTS, workloads=(MODEL,)),
    ),
    Claim(
        "example-compute",
        EXAMPLE,
        "every 4 of 8 layers costs a third of a step more",
        recompute("every_k", 1 / 3, None, [{"k": 4}], of_step=True, layers=8),
    ),
    Claim(
        "example-memory",
        EXAMPLE,
        "every 4 of 8 layers needs a quarter of the memory",
        three_quarters_less,
    ),
    Claim(
        "uniform-compute-limit",
        "Extra compute: O((k-1)/k × Forward) ≈ O(Forward) for large k",
        "extra compute approaches one forward from below as k grows",
        approaches_forward,
    ),
    Claim(
        "sqrt-compute-text",
        "- Extra compute: O(√L × Forward per layer)",
        "recomputed FLOPs grow as √L",
        growth("sqrt", 0.5, column="recompute_flops", what="recomputed FLOPs grow"),
    ),
    Claim(
        "sqrt-optimal",
        "Optimal for uniform compute/memory trade-off:\n- Checkpoint every √L layers",
        "no uniform k has a lower peak",
        sqrt_optimal,
    ),
    Claim(
        "gpt3-activations",
        "- Activations: ~120 GB per batch!",
        "at 96 layers, 2048 tokens and d = 12288, about 120 GB are saved",
        gpt3_activations,
    ),
    Claim(
        "flash-memory",
        "- Forward: Don't store N×N attention matrix",
        "flash attention saves less by one N × N matrix a head and layer, at least",
        flash_keeps_no_matrix,
    ),
    Claim(
        "offload-latency",
        "This adds PCIe transfer latency but enables training even larger models.",
        "on an accelerator, a step with offloaded checkpoints is slower",
        offload_latency,
    ),
    *LISTINGS,
    *METHODS,
    *ADVICE,
)


FSDP = Statement(
    "fsdp-sufficient",
    "**Already using FSDP/ZeRO**: May have sufficient memory",
    "there is a number of ranks from which on FSDP fits a model without checkpointing",
)
"""Judged by studies of clusters, not by records."""


def judge(frame: pd.DataFrame, ranks: Sequence[Study] = ()) -> list[tuple[Statement, Verdict]]:
    """Every claim of the ledger with its verdict, in the ledger's order.

    Args:
        frame: of the records.
        ranks: studies of clusters.
    """
    by_records: list[tuple[Statement, Verdict]] = [(one, one.check(frame)) for one in LEDGER]
    return [*by_records, (FSDP, clusters.verdict(ranks))]


def textbook_rows(frame: pd.DataFrame) -> list[str]:
    """A sentence of verdict, in Markdown, on each row of the textbook's table, in its order."""
    lines: dict[str, list[str]] = {}
    for claim, judgement in judge(frame):
        if claim.source.startswith("|"):
            figures = f" ({cell(judgement.gist)})" if judgement.gist else ""
            subject = claim.id.rpartition("-")[2]
            lines.setdefault(claim.source, []).append(f"{subject} **{judgement.verdict}**{figures}")
    return [f"{_quoted(source)}: {'; '.join(parts)}." for source, parts in lines.items()]


def _quoted(source: str) -> str:
    """``*Every layer*, said to be O(N × d) and ~100%``, from a row of the textbook's table."""
    name, memory, compute = (part.strip() for part in source.strip("|").split("|"))
    return f"*{cell(name)}*, claimed {cell(memory)} and {cell(compute)} more compute"


def data(frame: pd.DataFrame, ranks: Sequence[Study] = ()) -> list[dict[str, object]]:
    """The ledger with verdicts as plain data, for ``--format json``."""
    return [
        {
            "id": claim.id,
            "source": claim.source,
            "predicts": claim.predicts,
            "verdict": judgement.verdict,
            "evidence": judgement.evidence,
            "records": list(judgement.records),
        }
        for claim, judgement in judge(frame, ranks)
    ]


def as_json(frame: pd.DataFrame, ranks: Sequence[Study] = ()) -> str:
    """`data` as JSON, ending in a newline."""
    return json.dumps(data(frame, ranks), indent=2, ensure_ascii=False) + "\n"


def markdown(frame: pd.DataFrame, ranks: Sequence[Study] = ()) -> str:
    """The ledger with verdicts as a Markdown page."""
    header = ("Claim", "The textbook says", "That predicts", "Verdict", "Evidence", "Cells")
    body = [
        [
            code(claim.id),
            cell(claim.source.replace("|", " ")),
            cell(claim.predicts),
            f"**{judgement.verdict}**",
            cell(judgement.evidence),
            str(len(judgement.records)),
        ]
        for claim, judgement in judge(frame, ranks)
    ]
    measured = rows(frame)
    place = cell(display.where(measured)) if measured else "No records."
    table = display.table(header, body)
    return f"# The textbook's claims\n\n{place}. {RULES}\n{table}\n{_unjudged()}"


def _unjudged() -> str:
    """What the chapter says besides."""
    body = [[cell(said), why] for said, why in UNJUDGED.items()]
    return f"## What no record judges\n\n{display.table(('The textbook says', 'Why'), body)}"


RULES = f"""{display.UNITS}.

A *confirmed* claim agrees with every workload measured; a *refuted* one with none; a *refined* one
holds in part: in some workloads, or in kind but not in figure. *Unmeasured* names the command.
The cells behind each verdict are in `claims.json`.

- Growth is that of what lies above a constant, which is fitted to `none`; see `depth.md`. An
  exponent agrees within {ORDER.value}: {ORDER.reason}.
- A share agrees within {100 * CLOSE.value:.0f} points: {CLOSE.reason}.
- A share is *refined* within {100 * NEAR.value:.0f} % of the figure claimed: {NEAR.reason}.
- Where something begins is *refined* within a factor of {OCTAVE.value:g}: {OCTAVE.reason}.
"""
