"""Judges of single claims, each needing more than one growth or one share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from bench.report import display
from bench.report.depth import LAYERS, Series, chain_of, series
from bench.report.display import megabytes, percent, times
from bench.report.frame import ATTENTION, FLASH, Row, groups, rows
from bench.report.judges import (
    CHAIN,
    CLOSE,
    MODEL,
    PEAK,
    SAVED,
    Judge,
    Outcome,
    Verdict,
    at_depths,
    cells,
    combined,
    command,
    depth_series,
    gist_of,
    grade,
    matches,
    near_order,
    plain,
    shape,
    spec_of,
    unmeasured,
    verdict,
)
from bench.report.metrics import over
from bench.report.rounding import steady

FP32 = 4
HALF = 2
GPT3 = {"layers": 96, "seq": 2048, "dim": 12288}
GPT3_BYTES = 120e9


def every_k_compute(frame: pd.DataFrame) -> Verdict:
    """(k−1)/k of a forward, for each k and workload."""
    best = _by_k(frame, (CHAIN, MODEL))
    if not best:
        return unmeasured(command(CHAIN, "every_k(k=4)"))
    outcomes = [grade(row["recompute_of_forward"], 1 - 1 / k) for (_, k), row in best.items()]
    counted = "; ".join(
        f"{shape(row)}, k = {k}: claimed {percent(1 - 1 / k)}, "
        f"counted {percent(row['recompute_of_forward'])}"
        for (_, k), row in best.items()
    )
    shares = ((workload, percent(r["recompute_of_forward"])) for (workload, _), r in best.items())
    gist = gist_of(shares, f"k = {', '.join(map(str, sorted({k for _, k in best})))}: counted")
    return verdict(combined(outcomes), counted, best.values(), gist)


def approaches_forward(frame: pd.DataFrame) -> Verdict:
    """The gap to one whole forward closes as k grows, and is no more than 1/k at the largest."""
    best = _by_k(frame, (CHAIN,))
    if len(best) < 2:
        return unmeasured(*(command(CHAIN, f"every_k(k={k})") for k in (2, 4, 8)))
    shares = [row["recompute_of_forward"] for row in best.values()]
    largest = max(k for _, k in best)
    closing = all(b >= a for a, b in pairwise(shares))
    reaches = abs(1 - shares[-1]) <= 1 / largest + CLOSE.value
    outcome: Outcome = "refuted" if not closing else "confirmed" if reaches else "refined"
    listed = ", ".join(f"k = {k}: {percent(s)}" for (_, k), s in zip(best, shares, strict=True))
    return verdict(outcome, f"{CHAIN}, counted of a forward: {listed}", best.values())


def _by_k(frame: pd.DataFrame, workloads: Sequence[str]) -> dict[tuple[str, int], Row]:
    """The best row of each workload and k (which divides the depth, or the formula is another)."""
    best = {
        (workload, row["params"]["k"]): row
        for workload in workloads
        for row in cells(frame, workload, "every_k", needs=("recompute_of_forward",))
        if "k" in row["params"]
        and row["workload_options"].get(LAYERS, 0) % row["params"]["k"] == 0
        and not row["params"].get("keep_last")
    }
    return dict(sorted(best.items()))


def three_quarters_less(frame: pd.DataFrame) -> Verdict:
    """4 of 8 layers: saved bytes and peak both fall by 75 %."""
    candidates = cells(
        frame, CHAIN, "every_k", {"k": 4}, needs=("saved_x_none", "peak_x_none"), layers=8
    )
    if not candidates:
        return unmeasured(
            command(CHAIN, "none", "layers=8"), command(CHAIN, "every_k(k=4)", "layers=8")
        )
    row = candidates[-1]
    saved, peak = 1 - row["saved_x_none"], 1 - row["peak_x_none"]
    constant = _constant(frame, row)
    whole = row[SAVED] / row["saved_x_none"]
    layers = (whole - row[SAVED]) / (whole - constant)
    outcome = combined((grade(layers, 0.75), grade(peak, 0.75)))
    sentence = (
        f"Claimed 75 % less. {shape(row)}, k = 4: what layers save for backward falls by "
        f"{percent(layers)} (with the constant {megabytes(constant)} MB of head and loss: "
        f"{percent(saved)}), the peak of the step, with parameters and gradients, by "
        f"{percent(peak)}"
    )
    return verdict(outcome, sentence, [row])


def _constant(frame: pd.DataFrame, row: Row) -> float:
    """What `none` saves at any depth in the chain of ``row``, 0 where that was not measured."""
    chain = chain_of(row)
    return next((one.constant(SAVED) for one in series(frame) if one.chain == chain), 0.0)


def linear_share(
    strategy: str, cases: Sequence[tuple[Mapping[str, Any], float]], workloads: Sequence[str]
) -> Judge:
    """For each case of parameters, what is saved grows as L, and is that share of `none`'s."""

    def judge(frame: pd.DataFrame) -> Verdict:
        parts, outcomes, used, shares = [], list[Outcome](), list[Row](), list[tuple[str, str]]()
        for workload in workloads:
            none = depth_series(frame, workload, "none")
            for params, claimed in cases:
                one = depth_series(frame, workload, strategy, params)
                fit = one.growth(SAVED) if one else None
                share = _share(one, none) if one and none else None
                if one is None or fit is None or share is None:
                    continue
                linear: Outcome = "confirmed" if near_order(fit, 1) else "refuted"
                outcomes += [linear, grade(share, claimed)]
                parts.append(
                    f"{one.first['label']} on {workload}: L^{fit.exponent:.2f}, "
                    f"{steady(share):.3f} of none at L = {one.layers[-1]} (claimed {claimed:g})"
                )
                case = ", ".join(f"{name}={value}" for name, value in params.items())
                shares.append((workload, f"{steady(share):.2f} ({case})"))
                used += [*one.rows, *one.base]
        if not outcomes:
            specs = ("none", *(spec_of(strategy, params) for params, _ in cases))
            return unmeasured(*(at_depths(workloads[0], spec) for spec in specs))
        sentence = f"Claimed L^1. Saved after forward above the constant part: {'; '.join(parts)}"
        gist = gist_of(shares, "saved bytes, over those of none,")
        return verdict(combined(outcomes), sentence, used, gist)

    return judge


def _share(one: Series, none: Series) -> float | None:
    """Saved bytes at the greatest depth over those of `none`, both above the constant part."""
    deepest = none.at(one.layers[-1])
    if one.chain != none.chain or deepest is None or deepest[SAVED] is None:
        return None
    constant = one.constant(SAVED)
    return over(one.rows[-1][SAVED] - constant, deepest[SAVED] - constant)


def sqrt_optimal(frame: pd.DataFrame) -> Verdict:
    """No uniform k has a lower peak than √L, by more than the threshold."""
    parts, outcomes, used = [], list[Outcome](), list[Row]()
    for group in groups(frame):
        root = _peaks(group, "sqrt")
        uniform = _peaks(group, "every_k")
        judged = group[0]["workload"] in {CHAIN, MODEL} and plain(group[0])
        if not root or len(uniform) < 2 or not judged:
            continue
        best = min(uniform, key=lambda row: (row[PEAK], row["label"]))
        ratio = root[0][PEAK] / best[PEAK]
        outcomes.append("confirmed" if ratio <= 1 + CLOSE.value else "refuted")
        parts.append(f"{shape(root[0])}: {times(ratio)} of {best['label']}")
        used += [root[0], *uniform]
    if not outcomes:
        specs = ("sqrt", *(f"every_k(k={k})" for k in (2, 4, 8)))
        return unmeasured(*(command(CHAIN, spec) for spec in specs))
    sentence = f"Peak of sqrt over the lowest of every k tried: {'; '.join(parts)}"
    return verdict(combined(outcomes), sentence, used)


def _peaks(group: Sequence[Row], strategy: str) -> list[Row]:
    peaks = [row for row in group if matches(row, strategy) and row[PEAK] is not None]
    return sorted(peaks, key=lambda row: (len(row["spec"]), row["label"]))


def gpt3_activations(frame: pd.DataFrame) -> Verdict:
    """What `none` saves for one sequence at GPT-3's size."""
    candidates = [
        row
        for row in rows(frame)
        if row["strategy"] == "none"
        and row["status"] in ("ok", "oom")  # what does not fit a device was counted all the same
        and row[SAVED] is not None
        and all(row["workload_options"].get(name) == size for name, size in GPT3.items())
    ]
    if not candidates:
        return unmeasured(f"{command('gpt3-175b', 'none')} --device sim:h100-80gb --precision fp16")
    row = max(candidates, key=_closest_to_textbook)
    per_sequence = row[SAVED] / row["workload_options"].get("batch", 1)
    item = FP32 if row["precision"] == "fp32" else HALF
    boundaries = GPT3["layers"] * GPT3["seq"] * GPT3["dim"] * item
    counted = "; ".join(_counted(one) for one in sorted(candidates, key=lambda one: one["label"]))
    sentence = (
        f"Claimed 120 GB. Saved for one sequence: {counted}. L·N·d values alone, one a layer, are"
        f" {megabytes(boundaries)} MB"
    )
    return verdict(grade(per_sequence / GPT3_BYTES, 1.0), sentence, candidates)


def _closest_to_textbook(row: Row) -> tuple[bool, bool, str]:
    """Half precision and math attention: what the model was trained with, before flash."""
    half, math = row["precision"] != "fp32", row["workload_options"].get(ATTENTION) != FLASH
    return half, math, row["started_at_utc"]


def _counted(row: Row) -> str:
    kernel = row["workload_options"].get(ATTENTION, "math")
    each = row[SAVED] / row["workload_options"].get("batch", 1)
    modelled = " (modelled)" if row["modelled"] else ""
    return f"{megabytes(each)} MB with {kernel} attention in {row['precision']}{modelled}"


def flash_keeps_no_matrix(frame: pd.DataFrame) -> Verdict:
    """Flash attention saves less by at least one N × N matrix a head and layer."""
    for group in groups(frame):
        none = [r for r in group if r["strategy"] == "none" and r["status"] == "ok" and r[SAVED]]
        by_kernel = {row["workload_options"].get(ATTENTION): row for row in none if plain(row)}
        if group[0]["workload"] == MODEL and {"math", FLASH} <= set(by_kernel):
            return _matrices(by_kernel["math"], by_kernel[FLASH])
    return unmeasured(
        *(command(MODEL, "none", f"attention={kernel}") for kernel in ("math", FLASH))
    )


def _matrices(math: Row, flash: Row) -> Verdict:
    sizes = math["workload_options"]
    count = sizes[LAYERS] * sizes["batch"] * sizes["heads"] * sizes["seq"] ** 2
    matrices = count * FP32
    saved = math[SAVED] - flash[SAVED]
    enough = saved >= matrices * (1 - CLOSE.value)
    outcome: Outcome = "confirmed" if enough else "refined" if saved > 0 else "refuted"
    sentence = (
        f"{shape(math)}: math saves {megabytes(math[SAVED])} MB, flash {megabytes(flash[SAVED])}; "
        f"one N × N matrix a head and layer is {megabytes(matrices)} MB"
    )
    return verdict(outcome, sentence, [math, flash])


def offload_latency(frame: pd.DataFrame) -> Verdict:
    """On an accelerator, offloading is slower than the same plan kept on the device."""
    for group in groups(frame):
        timed = [r for r in group if r["step_ratio"] is not None and r["device"] != "cpu"]
        plain = {row["spec"]: row for row in timed}
        for row in timed:
            below = plain.get(str(row["params"].get("over")))
            if row["strategy"] == "offload" and below is not None and not row["modelled"]:
                return _slower(row, below)
    return unmeasured(
        *(command(MODEL, s) + " --device cuda" for s in ("every_layer", spec_of("offload", None)))
    )


def _slower(row: Row, below: Row) -> Verdict:
    apart = row["step_ratio_low"] > below["step_ratio_high"]
    faster = row["step_ratio_high"] < below["step_ratio_low"]
    outcome: Outcome = "confirmed" if apart else "refuted" if faster else "refined"
    sentence = (
        f"Step time × none of {row['label']}: {display.interval(row)}; "
        f"of {below['label']}: {display.interval(below)}"
    )
    if outcome == "refined":
        sentence += "; the intervals overlap, so any latency is within the noise"
    return verdict(outcome, sentence, [row, below])
